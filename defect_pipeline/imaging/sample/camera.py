"""The borescope: where each pixel looks, how the part shines there, and what lens and sensor make of it."""

import cv2
import numpy as np

from defect_pipeline.imaging.sample.canvas import MIDDLE, blur, smoothstep
from defect_pipeline.imaging.sample.part import Part, Rig

SIDE = 256  # px of a photograph
FINE = 384  # px it is rendered at, before the lens and the sensor
MIN_AREA = 30  # px; what the edge of the picture leaves of an instance counts from this size on


def photograph(part: Part, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """One view of a part, camera and light a little off: (SIDE, SIDE, 3) uint8 RGB, and its [(category, mask)]."""
    where, sight, lamp = _rays(part.rig, rng)
    y, x = (np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5) * 2 / SIDE - 1
    stop = smoothstep(np.hypot(x, y), part.rig.stop, part.rig.stop - 0.03)
    picture = _expose(_shade(part, where, sight, lamp), stop, part.rig, rng)
    instances = []
    for category, mask in part.instances:
        seen = cv2.resize(_project(mask.astype(np.float32), where), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        visible = (seen > 0.5) & (stop > 0.5)
        if visible.sum() >= MIN_AREA:
            instances.append((category, visible))
    return picture, instances


def _project(layer: np.ndarray, where: np.ndarray) -> np.ndarray:
    return cv2.remap(layer, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _rays(rig: Rig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each fine pixel looks: (F, F, 3) canvas x, y and angle on the cylinder, vectors to the lens, to the lamp.

    The liner is a cylinder about the y axis through the origin; the middle of the canvas lies at (0, 0, radius).
    """
    aim, zoom = MIDDLE + rng.uniform(-16, 16, 2), rng.uniform(0.93, 1.08)
    turned = cv2.Rodrigues(np.array([*(rig.tilt + rng.normal(0, 0.04, 2)), 0.0]))[0]
    turned = turned @ cv2.Rodrigues(np.array([0, 0, rig.roll + rng.normal(0, 0.07)]))[0]
    y, x = (np.mgrid[:FINE, :FINE] + 0.5 - FINE / 2) / zoom
    ray = np.stack([x, y, np.full_like(x, rig.distance)], axis=-1) @ turned.T
    lens = np.array([0, 0, rig.radius]) - rig.distance * turned[:, 2]
    a = ray[..., 0] ** 2 + ray[..., 2] ** 2
    b = ray[..., 0] * lens[0] + ray[..., 2] * lens[2]
    c = lens[0] ** 2 + lens[2] ** 2 - rig.radius**2
    hit = lens + ray * ((np.sqrt(b * b - a * c) - b) / a)[..., None]
    angle = np.arctan2(hit[..., 0], hit[..., 2])
    lamp = lens + rig.distance * turned[:, :2] @ (rig.lamp + rng.normal(0, 0.05, 2))
    where = np.stack([aim[0] + rig.radius * angle, aim[1] + hit[..., 1], angle], axis=-1)
    return where.astype(np.float32), (lens - hit).astype(np.float32), (lamp - hit).astype(np.float32)


def _shade(part: Part, where: np.ndarray, sight: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    """(F, F, 3) float32 light from each point to the lens: diffuse, a metal's or a ceramic's highlight, ambient."""
    steep = [cv2.Sobel(part.height, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0)]
    open_sky = np.clip(1 - 0.12 * np.clip(blur(part.height, 7) - part.height, 0, 6), 0.2, 1) * (1 - 0.7 * part.bore)
    matter = _project(np.dstack([part.albedo, part.gloss]), where)
    albedo, gloss = matter[..., :3], matter[..., 3]
    slope_x, slope_y, sky = np.moveaxis(_project(np.dstack([*steep, open_sky]), where), 2, 0)
    sine, cosine = np.sin(where[..., 2]), np.cos(where[..., 2])
    # the wall faces the axis, (-sin, 0, -cos); its tangents are (cos, 0, -sin) and y
    normal = _unit(np.stack([-sine - slope_x * cosine, -slope_y, -cosine + slope_x * sine], axis=-1))
    far = _dot(lamp, lamp)
    received = far.min() / far
    diffuse = np.clip(_dot(normal, _unit(lamp)), 0, None) * received
    facing = np.clip(_dot(normal, _unit(_unit(lamp) + _unit(sight))), 0, 1)
    shine = gloss * (0.9 * facing**16 + 1.2 * facing**80) * received * sky
    colour = 0.4 if part.coated else 0.15 + albedo
    return albedo * ((1 - 0.5 * gloss) * diffuse + 0.12 * sky)[..., None] + colour * shine[..., None]


def _expose(light: np.ndarray, stop: np.ndarray, rig: Rig, rng: np.random.Generator) -> np.ndarray:
    """Lens and sensor: blur, bloom, vignette, colour fringes, exposure, tone curve and noise; (SIDE, SIDE, 3) uint8."""
    light = cv2.resize(blur(light, rng.uniform(0.7, 1.1)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    y, x = (np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5) * 2 / SIDE - 1
    spot = (x - rig.beam[0]) ** 2 + (y - rig.beam[1]) ** 2
    light *= (0.2 + 0.8 * np.exp(-0.5 * spot / rig.beam[2] ** 2))[..., None]
    gain = rng.uniform(0.25, 0.6) / np.percentile(light, 80)
    light = light * (gain * rig.balance * rng.normal(1, 0.012, 3)).astype(np.float32)
    light += 0.3 * blur(np.clip(light - 0.8, 0, 2), 7)  # bloom
    light = light * (stop * (1 - rng.uniform(0.1, 0.25) * (x * x + y * y)))[..., None] + 0.002
    fringe = rng.uniform(0.001, 0.004)
    for channel, scale in ((0, 1 + fringe), (2, 1 - fringe)):
        matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 0, scale)
        light[..., channel] = cv2.warpAffine(light[..., channel], matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    levels = (1 - np.exp(-1.5 * np.clip(light, 0, None))) ** (1 / 2.2)
    levels = 255 * (0.5 * levels + 0.5 * smoothstep(levels, 0, 1))
    noise = rng.standard_normal((SIDE, SIDE, 3), np.float32) * 0.6 + rng.standard_normal((SIDE, SIDE, 1), np.float32)
    levels += rig.grain * blur(noise, 0.6) * (0.7 + 0.6 * (1 - levels / 255)) * (0.3 + 0.7 * stop[..., None])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i", a, b)  # several times as fast as a sum over an axis of three


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(_dot(vectors, vectors))[..., None]
