"""Burn, crack, pit and scratch: what each does to a part's reflectance, height and gloss, and its mask."""

import math
from collections.abc import Callable

import numpy as np

from defect_pipeline.imaging.masks import dilated
from defect_pipeline.imaging.sample.canvas import MIDDLE, X, Y, blur, fractal, mix, ramp, rgb, smoothstep, strokes
from defect_pipeline.imaging.sample.part import Part

# A burn, from its fading edge to its core: on bare metal a halo of temper colours, on a coating only scorching
BURNT_METAL = (
    (1, 1, 1), (0.95, 0.72, 0.38), (0.66, 0.37, 0.2), (0.38, 0.22, 0.34),
    (0.17, 0.22, 0.4), (0.1, 0.08, 0.075), (0.05, 0.042, 0.038), (0.035, 0.03, 0.028),
)  # fmt: skip
BURNT_COATING = (
    (1, 1, 1), (0.95, 0.74, 0.5), (0.72, 0.46, 0.27), (0.48, 0.27, 0.14),
    (0.28, 0.15, 0.08), (0.14, 0.08, 0.05), (0.06, 0.045, 0.035), (0.04, 0.032, 0.028),
)  # fmt: skip


def damage(part: Part, category: str, rng: np.random.Generator) -> None:
    """Paint one or two instances of a category (a key of DEFECTS) into the part and list their masks there."""
    wanted = 1 if category == "burn" else rng.choice((1, 1, 2))
    for _ in range(20):  # tries; instances stay clear of each other
        (albedo, height, gloss), mask = DEFECTS[category](part, rng)
        if not any((dilated(mask, 8) & other).any() for _, other in part.instances):
            part.albedo, part.height, part.gloss = albedo, height, gloss
            part.instances.append((category, mask & (part.bore < 0.5)))
        if len(part.instances) == wanted:
            break


Painted = tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # (albedo, height, gloss), mask (S, S) bool


def _hole_near(part: Part, place: np.ndarray) -> list[float]:
    """x, y, radius of the hole nearest to a place."""
    return part.holes[np.linalg.norm(part.holes[:, :2] - place, axis=1).argmin()].tolist()


def _walk(rng: np.random.Generator, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    """(n, 2) points of a jagged path that keeps returning to its heading, as a crack follows the stress."""
    angles = np.full(max(4, round(length / 4)), heading)
    for step in range(1, len(angles)):
        angles[step] += 0.75 * (angles[step - 1] - heading) + rng.normal(0, 0.3)
    moves = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.vstack([start, start + np.cumsum(moves, axis=0)])


def _crack_lines(part: Part, rng: np.random.Generator) -> list[tuple[np.ndarray, float, float]]:
    place = MIDDLE + rng.uniform(-95, 95, 2)
    width, length = rng.uniform(3.4, 5.2), rng.uniform(120, 210)
    if part.seam is not None and rng.random() < 0.4:  # in the heat-affected zone, along the seam
        start = int(np.linalg.norm(part.seam - place, axis=1).argmin())
        way = part.seam[min(start + 5, len(part.seam) - 1)] - part.seam[start]
        origin, heading = part.seam[start] - way / np.linalg.norm(way) * length / 2, np.arctan2(way[1], way[0])
    else:
        x, y, radius = _hole_near(part, place)
        heading = np.arctan2(MIDDLE - y, MIDDLE - x) + rng.normal(0, 0.7)
        origin = np.array([x, y]) + radius * np.array([np.cos(heading), np.sin(heading)])
    trunk = _walk(rng, origin, heading, length)
    lines = [(trunk, width, 2.0)]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.uniform(0.2, 0.8) * len(trunk))
        side = rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
        lines.append((_walk(rng, trunk[at], heading + side, length * rng.uniform(0.15, 0.4)), 0.7 * width, 1.6))
    return lines


def _crack(part: Part, rng: np.random.Generator) -> Painted:
    """A dark branching gap with a fine bright lip, from a cooling hole or along the seam."""
    gap = strokes(_crack_lines(part, rng)) * (1 - part.bore) * np.clip(0.9 + 0.12 * fractal(rng, 12, 2), 0.5, 1)
    lip = np.clip(blur(gap, 2.2) * 1.8 - gap, 0, 1)
    height = part.height - 5 * blur(gap, 0.8) + 1.6 * lip
    albedo = part.albedo * (1 + (0.6 if part.coated else 0.35) * lip)[..., None]
    albedo = mix(albedo, rgb(0.012, 0.01, 0.009), gap)
    return (albedo, height, mix(part.gloss, 0.0, gap)), dilated(gap > 0.3, 2)


def _pit(part: Part, rng: np.random.Generator) -> Painted:
    """A cluster of corrosion pits with lit rims, in a dull and rusty patch."""
    place, count = MIDDLE + rng.uniform(-95, 95, 2), int(rng.integers(16, 32))
    x, y = (place + rng.normal(0, rng.uniform(11, 17), (count, 2)) * (1.2, 0.9)).astype(np.float32).T[..., None, None]
    radius = np.clip(rng.lognormal(1.2, 0.45, (count, 1, 1)), 2.2, 8).astype(np.float32)
    window = tuple(slice(int(middle) - 90, int(middle) + 90) for middle in place[::-1])
    away = np.hypot(X[window] - x, Y[window] - y) - radius
    bowls, patch = np.zeros_like(part.height), np.zeros_like(part.height)
    bowls[window] = np.clip(1 - (1 + away / radius) ** 2, 0, 1).max(axis=0)
    patch[window] = np.exp(-np.clip(away, 0, None) / 5.5).max(axis=0)
    patch = smoothstep(patch + 0.06 * fractal(rng, 12, 3), 0.25, 0.6) * (1 - part.bore)
    bowls *= 1 - part.bore
    rim = np.clip(blur(bowls, 1.8) - bowls, 0, 1)
    height = part.height - 5 * np.sqrt(bowls) + 4 * rim + 0.5 * patch * fractal(rng, 5, 2)
    albedo = mix(part.albedo, part.albedo * rgb(0.62, 0.46, 0.34), patch) * (1 + 0.9 * rim)[..., None]
    albedo = mix(albedo, rgb(0.02, 0.014, 0.01), smoothstep(bowls, 0.05, 0.55))
    return (albedo, height, mix(part.gloss, 0.15, patch)), dilated(patch > 0.25, 1)


def _scratch(part: Part, rng: np.random.Generator) -> Painted:
    """Bright marks of one slipped tool: near-parallel, straight or slightly bent, laid bare to the metal."""
    place, angle, bend = MIDDLE + rng.uniform(-95, 95, 2), rng.uniform(0, np.pi), rng.normal(0, 0.0012)
    way = np.array([np.cos(angle), np.sin(angle)])
    normal = np.array([-way[1], way[0]])
    lines, offset = [], 0.0
    for _ in range(rng.integers(2, 5)):
        half, shift = rng.uniform(38, 66), rng.normal(0, 14)
        t = np.linspace(-half, half, 40)
        tilt = rng.normal(0, 0.02)
        points = place + np.outer(t + shift, way) + np.outer(offset + tilt * t + bend * t**2, normal)
        width = rng.uniform(2.8, 4.2)
        lines += [(points[:20][::-1], width, 1.3), (points[19:], width, 1.3)]  # pressed hardest in the middle
        offset += rng.uniform(11, 17)
    cut = strokes(lines) * (1 - part.bore)
    chatter = np.clip(0.95 + 0.25 * fractal(rng, 16, 3), 0.5, 1)
    ridge = np.clip(blur(cut, 1.3) - cut, 0, 1)
    height = part.height - 2.0 * blur(cut, 0.7) + 2.0 * ridge
    albedo = part.albedo * (1 - 0.7 * ridge)[..., None]
    albedo = mix(albedo, rgb(0.9, 0.89, 0.86), cut * chatter)
    return (albedo, height, mix(part.gloss, 0.9, cut)), dilated(cut > 0.2, 2)


def _burn(part: Part, rng: np.random.Generator) -> Painted:
    """A heat stain with a tinted halo, from a cooling hole downstream."""
    x, y, radius = _hole_near(part, MIDDLE + rng.uniform([-80, -110], [80, -10]))
    length, width, lean = rng.uniform(150, 230), rng.uniform(40, 56), rng.normal(0, 0.2)
    free = smoothstep(np.hypot(X - x, Y - y), radius, 5 * radius)  # it starts at the hole, whatever becomes of it
    dx, dy = X - x + 10 * free * fractal(rng, 70, 3), Y - y + 15 * free * fractal(rng, 80, 3)
    cosine, sine = math.cos(lean), math.sin(lean)
    along, across = (dy * cosine + dx * sine) / length, dx * cosine - dy * sine
    spread = width * (0.55 + 0.75 * np.clip(along, 0, 1))
    core = np.exp(-((across / spread) ** 2)) * smoothstep(along, -0.2, 0.1) * smoothstep(along, 1.15, 0.1)
    heat = np.clip(rng.uniform(0.95, 1.2) * core * (1 + 0.1 * fractal(rng, 24, 4)), 0, 1)
    scale = BURNT_COATING if part.coated else BURNT_METAL
    weight = (1 - part.bore)[..., None]
    albedo = part.albedo * (1 + (ramp(scale, smoothstep(heat, 0.05, 1.0)) - 1) * weight)
    height = part.height + 0.4 * heat * fractal(rng, 6, 2) * (1 - part.bore)
    return (albedo, height, mix(part.gloss, 0.05, np.clip(1.5 * heat, 0, 1))), dilated(heat > 0.26, 1)


DEFECTS: dict[str, Callable[[Part, np.random.Generator], Painted]] = {
    "burn": _burn, "crack": _crack, "pit": _pit, "scratch": _scratch,
}  # fmt: skip
