"""Pieces of liner without a defect: metal or coating, weathered, drilled, perhaps with a seam."""

import math
from dataclasses import dataclass, field

import numpy as np

from defect_pipeline.imaging.sample.canvas import CANVAS, MIDDLE, X, Y, blur, fractal, mix, ramp, rgb, smoothstep

# Interference colours of the oxide on hot nickel alloy, as factors on its reflectance, from cold to hottest
TEMPER = ((1, 1, 1), (1, 0.86, 0.6), (0.85, 0.58, 0.36), (0.56, 0.38, 0.48), (0.36, 0.43, 0.66), (0.5, 0.53, 0.52))


@dataclass
class Rig:
    """The borescope of one inspection. Lengths in canvas px, angles in radians."""

    radius: float  # of the liner
    distance: float  # lens to wall
    tilt: np.ndarray  # (2,) of the line of sight out of the wall's normal, about x and y
    roll: float
    lamp: np.ndarray  # (2,) offset from the lens, in distances
    beam: np.ndarray  # (3,) x, y and deviation of its bright spot, in half pictures
    stop: float  # radius of the round field of view, in half pictures; above sqrt(2) nothing is cut off
    balance: np.ndarray  # (3,) white balance
    grain: float  # standard deviation of the sensor's noise, in grey levels


@dataclass
class Part:
    """One piece of liner, CANVAS x CANVAS px. Defects paint into it."""

    albedo: np.ndarray  # (S, S, 3) float32, reflectance 0..1, linear light
    height: np.ndarray  # (S, S) float32, px towards the camera
    gloss: np.ndarray  # (S, S) float32, 0 matt .. 1 polished
    bore: np.ndarray  # (S, S) float32, 1 inside cooling holes
    holes: np.ndarray  # (n, 3) float, x, y and radius
    seam: np.ndarray | None  # (m, 2) float, points along the weld or joint
    coated: bool  # ceramic thermal barrier coating, else bare metal
    rig: Rig
    instances: list[tuple[str, np.ndarray]] = field(default_factory=list)  # category, (S, S) bool


def render_part(rng: np.random.Generator) -> Part:
    """A part without a defect: sheet metal or coating, cooling holes, perhaps a seam, and the rig that looks at it."""
    coated = rng.random() < 0.4
    albedo, height, gloss = _coating(rng) if coated else _metal(rng)
    blank = np.zeros_like(height)
    part = Part(albedo, height, gloss, blank, np.zeros((0, 3)), None, coated, _rig(rng))
    if rng.random() < 0.55:
        _add_seam(part, rng)
    _weather(part, rng)
    _drill(part, rng)
    return part


def _rig(rng: np.random.Generator) -> Rig:
    bearing, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.8)
    return Rig(
        radius=rng.uniform(420, 1000), distance=rng.uniform(340, 480), tilt=rng.uniform(-0.42, 0.42, 2),
        roll=rng.uniform(0, 2 * math.pi), lamp=reach * np.array([math.cos(bearing), math.sin(bearing)]),
        beam=rng.uniform([-0.5, -0.5, 0.7], [0.5, 0.5, 1.2]), stop=rng.uniform(0.98, 1.15) if rng.random() < 0.3 else 2,
        balance=rng.normal(1, [0.05, 0.015, 0.06]), grain=rng.uniform(1.2, 3.0),
    )  # fmt: skip


def _metal(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rolled or brushed nickel alloy under heat tint: albedo, height, gloss."""
    brush = fractal(rng, 9, 3, stretch=rng.uniform(15, 50))
    brush = brush if rng.random() < 0.5 else brush.T
    mottle, grain = fractal(rng, 90), fractal(rng, 4, 1)
    strength = rng.uniform(0.3, 1)
    tone = rng.uniform(0.2, 0.42) * (1 + 0.13 * strength * brush + 0.14 * mottle + 0.06 * grain)
    slope = rng.uniform(-0.35, 0.35, 2).astype(np.float32) / CANVAS
    heat = rng.uniform(0, 0.65) + slope[0] * (X - MIDDLE) + slope[1] * (Y - MIDDLE) + 0.09 * fractal(rng, 200)
    tint = ramp(TEMPER, heat) ** rng.uniform(0.3, 1)
    height = 0.16 * strength * brush + 0.05 * grain + 1.8 * fractal(rng, 200, 2)
    gloss = np.clip(rng.uniform(0.35, 0.85) + 0.12 * mottle + 0.1 * strength * brush, 0, 1)
    return tone[..., None] * rgb(1, 0.96, 0.9) * tint, height, gloss


def _coating(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sprayed ceramic coating, sooty in places: albedo, height, gloss."""
    grain, mottle = fractal(rng, 6, 2), fractal(rng, 120)
    hue = rng.uniform([0.88, 0.78, 0.5], [1.0, 0.95, 0.86]).astype(np.float32)
    tone = rng.uniform(0.26, 0.48) * (1 + 0.07 * grain + 0.09 * mottle)
    soot = rng.uniform(0.25, 0.75) * smoothstep(fractal(rng, 150, 5, stretch=0.4), -0.4, 2.2)
    albedo = mix(tone[..., None] * hue, rgb(0.06, 0.05, 0.042), soot)
    height = 0.22 * grain + 1.6 * fractal(rng, 200, 2)
    return albedo, height, np.full((CANVAS, CANVAS), rng.uniform(0.03, 0.15), np.float32)


def _weather(part: Part, rng: np.random.Generator) -> None:
    """What service leaves on every part and is no defect: specks, and streaks of deposit along the flow."""
    specks = smoothstep(fractal(rng, 5, 2), 2.4, 3.4) * rng.uniform(0.2, 0.7)
    streaks = rng.uniform(0.05, 0.3) * smoothstep(fractal(rng, 28, 3, stretch=12).T, 0.2, 2.5)
    part.albedo = mix(part.albedo, part.albedo * rgb(0.42, 0.36, 0.3), np.maximum(specks, streaks))


def _add_seam(part: Part, rng: np.random.Generator) -> None:
    """A weld bead, or the step of a lap joint, along or across the flow."""
    along = rng.random() < 0.5
    way, across = (Y, X) if along else (X, Y)
    wave = rng.uniform(1, 4) * np.sin(way[:, :1] / 70 if along else way[:1] / 70)
    place = MIDDLE + rng.uniform(-110, 110)
    off = across - place - wave
    if rng.random() < 0.6:
        width, period = rng.uniform(9, 15), rng.uniform(7, 11)
        bead = np.clip(1 - (off / width) ** 2, 0, None)
        ripple = np.sin((way + 0.5 * off**2 / width) * 2 * np.pi / period + 0.6 * fractal(rng, 40, 2))
        part.height += np.sqrt(bead) * (0.3 * width + 0.7 * ripple)
        part.height -= 1.5 * np.exp(-(((np.abs(off) - width) / 2) ** 2))  # undercut beside the bead
        part.gloss = mix(part.gloss, 0.55, np.sqrt(bead))
        zone = np.exp(-(((np.abs(off) - width) / rng.uniform(14, 26)) ** 2)) + 0.15 * fractal(rng, 60)
        part.albedo *= ramp(TEMPER, 0.8 * zone) ** 0.25 * (1 - 0.12 * np.sqrt(bead) * (ripple < 0))[..., None]
    else:
        part.height += rng.uniform(5, 9) * smoothstep(off, -2.5, 2.5)
        part.albedo *= 1 - 0.75 * np.exp(-(((off + 3.5) / 2.2) ** 2))[..., None]
    line = np.arange(0, CANVAS, 3, dtype=float)
    path = place + (wave[:, 0] if along else wave[0])[::3]
    part.seam = np.stack([path, line] if along else [line, path], axis=1)


def _hole_grid(rng: np.random.Generator) -> np.ndarray:
    """(n, 3) x, y, radius of the pattern: dense effusion holes, or rows with bands of plain sheet between them."""
    dense = rng.random() < 0.4
    radius = rng.uniform(8, 11) if dense else rng.uniform(10, 18)
    pitch = radius * rng.uniform(4.6, 6.5) if dense else radius * rng.uniform(3.6, 5)
    gap = pitch * rng.uniform(0.75, 1.0) if dense else rng.uniform(110, 190)
    x0, y0 = rng.uniform(0, pitch), rng.uniform(0, gap)
    row, column = np.mgrid[-1 : int(CANVAS / gap) + 1, -1 : int(CANVAS / pitch) + 1].reshape(2, -1)
    places = np.stack([x0 + (column + 0.5 * (row % 2)) * pitch, y0 + row * gap], axis=1)
    places = np.rint(places + rng.normal(0, 0.7, places.shape))
    places = places[((places >= 0) & (places < CANVAS)).all(axis=1)]
    return np.column_stack([places, np.full(len(places), radius)])


def _drill(part: Part, rng: np.random.Generator) -> None:
    """Cooling holes: bores inclined to the wall, chamfered, with clean or stained sheet downstream of each."""
    holes = _hole_grid(rng)
    if part.seam is not None:
        clearance = np.linalg.norm(holes[:, None, :2] - part.seam[None], axis=2).min(axis=1)
        holes = holes[clearance > holes[:, 2] + 20]
    margin = math.ceil(8 * holes[0, 2])
    stamp = _hole(holes[0, 2], margin, rng)
    layers = np.zeros((4, CANVAS + 2 * margin, CANVAS + 2 * margin), np.float32)
    for x, y in holes[:, :2].astype(int):  # all drilled by one tool
        view = layers[:, y : y + 2 * margin, x : x + 2 * margin]
        np.maximum(view, stamp, out=view)
    part.bore, wall, rim, trail = layers[:, margin:-margin, margin:-margin]
    part.height += 1.8 * rim - 5 * blur(part.bore, 1.5)
    stain = rng.uniform(-0.35, 0.45)
    part.albedo *= (1 - stain * trail * (1 + 0.3 * fractal(rng, 30)))[..., None] * (1 + 0.4 * rim)[..., None]
    inside = (0.003 + 0.11 * wall * (1 + 0.25 * fractal(rng, 6, 2)))[..., None] * rgb(1, 0.82, 0.62)
    part.albedo = mix(part.albedo, inside, part.bore)
    part.gloss = mix(part.gloss, 0.0, part.bore)
    part.holes = holes


def _hole(radius: float, margin: int, rng: np.random.Generator) -> np.ndarray:
    """(4, 2 margin, 2 margin) float32 in 0..1: bore, its lit wall, its rim, and the trail of its air downstream."""
    dy, dx = np.mgrid[-margin:margin, -margin:margin].astype(np.float32)
    oval, side, lean = rng.uniform(1.0, 1.35), rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.6)
    away = np.hypot(dx, dy / oval) - radius
    bore = smoothstep(away, 0.8, -0.8)
    deep = np.hypot(dx - side * radius, dy / oval - lean * radius) - 0.95 * radius
    plume = np.exp(-((dx / (radius * (0.8 + np.clip(dy, 0, None) / 150))) ** 2) - np.clip(dy, 0, None) / (2.5 * radius))
    return np.stack([
        bore,
        bore * smoothstep(deep, -0.05 * radius, 0.3 * radius),
        np.exp(-(((away - 2.5) / 2) ** 2)),
        plume * smoothstep(dy, -radius, radius),
    ]).astype(np.float32)  # fmt: skip
