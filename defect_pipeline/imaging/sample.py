"""The sample data set: procedural borescope photographs of a gas turbine's combustor liner, with annotated defects.

Made from nothing but a seed, so it is free of any licence, and ingested like a user's own data. A part is a flat canvas
of reflectance, height and gloss; defects change these, so that light falls on them as on everything else; a camera
inside the liner then photographs the part, bent to a cylinder, a few times. Gas flows down the canvas (+y).
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.masks import bbox

SIDE = 256  # px of a photograph
FINE = 384  # px it is rendered at, before the lens and the sensor
CANVAS = 608  # px of a part; a photograph shows about the middle 384
MIDDLE = CANVAS / 2
VIEWS = (3, 2, 4, 3, 2, 3, 4)  # photographs of the first, second ... part of a class
FREE_VIEWS = (3, 2, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 3, 3)  # of those without a defect
MIN_AREA = 30  # px; what the edge of the picture leaves of an instance counts from this size on
# Noise repeats nothing, so looking for repeats costs time and, at the default level, even space
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)

# Interference colours of the oxide on hot nickel alloy, as factors on its reflectance, from cold to hottest
TEMPER = ((1, 1, 1), (1, 0.86, 0.6), (0.85, 0.58, 0.36), (0.56, 0.38, 0.48), (0.36, 0.43, 0.66), (0.5, 0.53, 0.52))
# A burn, from its fading edge to its core: on bare metal a halo of temper colours, on a coating only scorching
BURNT_METAL = (
    (1, 1, 1), (0.95, 0.72, 0.38), (0.66, 0.37, 0.2), (0.38, 0.22, 0.34),
    (0.17, 0.22, 0.4), (0.1, 0.08, 0.075), (0.05, 0.042, 0.038), (0.035, 0.03, 0.028),
)  # fmt: skip
BURNT_COATING = (
    (1, 1, 1), (0.95, 0.74, 0.5), (0.72, 0.46, 0.27), (0.48, 0.27, 0.14),
    (0.28, 0.15, 0.08), (0.14, 0.08, 0.05), (0.06, 0.045, 0.035), (0.04, 0.032, 0.028),
)  # fmt: skip


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


def make_sample(directory: Path, seed: int = 0) -> None:
    """Write the sample as a COCO data set: annotations.json, images/*.png (with defects) and defect_free/*.png.

    All of SIDE x SIDE px, RGB. File names tell nothing; the true part of each image is its entry's `part`. The same
    seed gives the same bytes. annotations.json is written last: where it exists, the set is whole.
    """
    jobs = [(category, views) for category in DEFECTS for views in VIEWS] + [("", views) for views in FREE_VIEWS]
    numbers = iter(np.random.default_rng([seed, 0]).permutation(sum(views for _, views in jobs)).tolist())
    entries = []
    for folder in ("images", "defect_free"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for order, (category, views) in enumerate(jobs, start=1):
        rng = np.random.default_rng([seed, order])
        part = render_part(rng)
        if category:
            damage(part, category, rng)
        for _ in range(views):
            picture, masks = photograph(part, rng)
            name = f"{'images' if category else 'defect_free'}/img_{next(numbers):04d}.png"
            cv2.imwrite(str(directory / name), picture[..., ::-1], PNG)
            image = {"file_name": name, "width": SIDE, "height": SIDE, "license": 1, "part": f"part_{order:02d}"}
            entries.append((image, masks))
    _write_coco(directory / "annotations.json", sorted(entries, key=lambda entry: entry[0]["file_name"][-8:]))


def _write_coco(path: Path, entries: Sequence[tuple[dict[str, Any], list[tuple[str, np.ndarray]]]]) -> None:
    """The images and their masks as a COCO document: polygons where they tell all of a mask, else RLE."""
    document = coco_dict([image for image, _ in entries], [masks for _, masks in entries], list(DEFECTS))
    for annotation, mask in zip(document["annotations"], (m for _, masks in entries for _, m in masks), strict=True):
        polygons = _polygons(mask)
        if polygons:  # area and box are those of what a reader will fill
            filled = rle.decode(rle.merge(rle.frPyObjects(polygons, SIDE, SIDE))).astype(bool)
            annotation.update(segmentation=polygons, area=int(filled.sum()), bbox=bbox(filled))
    document["info"] = {"description": "Combustor liner seen through a borescope, procedural", "license": "CC0-1.0"}
    document["info"] |= {"version": "1.0", "year": 2025}
    document["licenses"] = [{"id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document), encoding="utf-8")
    os.replace(partial, path)


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines [x, y, x, y ...] of a (H, W) bool mask; none where it has holes, which polygons cannot tell."""
    fine = cv2.resize(mask.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = (tree[0, :, 3] >= 0).any()
    return [] if holes else [((contour[:, 0] + 0.5) / 4).ravel().tolist() for contour in contours]


# --- shapes ---------------------------------------------------------------------------------------

Y, X = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)


def _noise(rng: np.random.Generator, cell: float, octaves: int = 4, stretch: float = 1.0) -> np.ndarray:
    """(S, S) float32 fractal noise of unit deviation; `cell` px is its coarsest grain, `stretch` times longer in x."""
    total = np.zeros((CANVAS, CANVAS), np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, round(CANVAS * 2**octave / side)) for side in (cell, cell * stretch))
        grid = rng.standard_normal((min(rows, CANVAS), min(columns, CANVAS)), np.float32)
        total += cv2.resize(grid, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total - total.mean()) / total.std()


def _smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the other way round), smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _strokes(lines: list[tuple[np.ndarray, float, float]]) -> np.ndarray:
    """(S, S) float32 coverage of polylines, each ((n, 2) points, width at its start, width at its end)."""
    drawn = np.zeros((2 * CANVAS, 2 * CANVAS), np.uint8)  # twice as fine, since widths are whole numbers here
    for points, start, end in lines:
        knots = np.rint(points * 2 * 16).astype(int).tolist()
        for i, width in enumerate(np.linspace(2 * start, 2 * end, len(knots) - 1)):
            cv2.line(drawn, knots[i], knots[i + 1], 255, max(1, round(width)), cv2.LINE_AA, 4)
    return cv2.resize(drawn, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), sigma)


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def _ramp(colours: Sequence[Sequence[float]], at: np.ndarray) -> np.ndarray:
    """(S, S, 3) colours of a scale, looked up at (S, S) positions 0..1."""
    table = cv2.resize(np.array([colours], np.float32), (256, 1), interpolation=cv2.INTER_LINEAR)[0]
    return table[np.clip(at * 255, 0, 255).astype(np.uint8)]


def _rgb(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i", a, b)  # several times as fast as a sum over an axis of three


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(_dot(vectors, vectors))[..., None]


def _mix(values: np.ndarray, target: np.ndarray | float, weight: np.ndarray) -> np.ndarray:
    """From `values` where the (S, S) weight is 0 to `target` where it is 1, float32."""
    weight = weight[..., None] if values.ndim > weight.ndim else weight
    return (values + (target - values) * weight).astype(np.float32)


# --- parts ----------------------------------------------------------------------------------------


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
    brush = _noise(rng, 9, 3, stretch=rng.uniform(15, 50))
    brush = brush if rng.random() < 0.5 else brush.T
    mottle, grain = _noise(rng, 90), _noise(rng, 4, 1)
    strength = rng.uniform(0.3, 1)
    tone = rng.uniform(0.2, 0.42) * (1 + 0.13 * strength * brush + 0.14 * mottle + 0.06 * grain)
    slope = rng.uniform(-0.35, 0.35, 2).astype(np.float32) / CANVAS
    heat = rng.uniform(0, 0.65) + slope[0] * (X - MIDDLE) + slope[1] * (Y - MIDDLE) + 0.09 * _noise(rng, 200)
    tint = _ramp(TEMPER, heat) ** rng.uniform(0.3, 1)
    height = 0.16 * strength * brush + 0.05 * grain + 1.8 * _noise(rng, 200, 2)
    gloss = np.clip(rng.uniform(0.35, 0.85) + 0.12 * mottle + 0.1 * strength * brush, 0, 1)
    return tone[..., None] * _rgb(1, 0.96, 0.9) * tint, height, gloss


def _coating(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sprayed ceramic coating, sooty in places: albedo, height, gloss."""
    grain, mottle = _noise(rng, 6, 2), _noise(rng, 120)
    hue = rng.uniform([0.88, 0.78, 0.5], [1.0, 0.95, 0.86]).astype(np.float32)
    tone = rng.uniform(0.26, 0.48) * (1 + 0.07 * grain + 0.09 * mottle)
    soot = rng.uniform(0.25, 0.75) * _smoothstep(_noise(rng, 150, 5, stretch=0.4), -0.4, 2.2)
    albedo = _mix(tone[..., None] * hue, _rgb(0.06, 0.05, 0.042), soot)
    height = 0.22 * grain + 1.6 * _noise(rng, 200, 2)
    return albedo, height, np.full((CANVAS, CANVAS), rng.uniform(0.03, 0.15), np.float32)


def _weather(part: Part, rng: np.random.Generator) -> None:
    """What service leaves on every part and is no defect: specks, and streaks of deposit along the flow."""
    specks = _smoothstep(_noise(rng, 5, 2), 2.4, 3.4) * rng.uniform(0.2, 0.7)
    streaks = rng.uniform(0.05, 0.3) * _smoothstep(_noise(rng, 28, 3, stretch=12).T, 0.2, 2.5)
    part.albedo = _mix(part.albedo, part.albedo * _rgb(0.42, 0.36, 0.3), np.maximum(specks, streaks))


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
        ripple = np.sin((way + 0.5 * off**2 / width) * 2 * np.pi / period + 0.6 * _noise(rng, 40, 2))
        part.height += np.sqrt(bead) * (0.3 * width + 0.7 * ripple)
        part.height -= 1.5 * np.exp(-(((np.abs(off) - width) / 2) ** 2))  # undercut beside the bead
        part.gloss = _mix(part.gloss, 0.55, np.sqrt(bead))
        zone = np.exp(-(((np.abs(off) - width) / rng.uniform(14, 26)) ** 2)) + 0.15 * _noise(rng, 60)
        part.albedo *= _ramp(TEMPER, 0.8 * zone) ** 0.25 * (1 - 0.12 * np.sqrt(bead) * (ripple < 0))[..., None]
    else:
        part.height += rng.uniform(5, 9) * _smoothstep(off, -2.5, 2.5)
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
    part.height += 1.8 * rim - 5 * _blur(part.bore, 1.5)
    stain = rng.uniform(-0.35, 0.45)
    part.albedo *= (1 - stain * trail * (1 + 0.3 * _noise(rng, 30)))[..., None] * (1 + 0.4 * rim)[..., None]
    inside = (0.003 + 0.11 * wall * (1 + 0.25 * _noise(rng, 6, 2)))[..., None] * _rgb(1, 0.82, 0.62)
    part.albedo = _mix(part.albedo, inside, part.bore)
    part.gloss = _mix(part.gloss, 0.0, part.bore)
    part.holes = holes


def _hole(radius: float, margin: int, rng: np.random.Generator) -> np.ndarray:
    """(4, 2 margin, 2 margin) float32 in 0..1: bore, its lit wall, its rim, and the trail of its air downstream."""
    dy, dx = np.mgrid[-margin:margin, -margin:margin].astype(np.float32)
    oval, side, lean = rng.uniform(1.0, 1.35), rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.6)
    away = np.hypot(dx, dy / oval) - radius
    bore = _smoothstep(away, 0.8, -0.8)
    deep = np.hypot(dx - side * radius, dy / oval - lean * radius) - 0.95 * radius
    plume = np.exp(-((dx / (radius * (0.8 + np.clip(dy, 0, None) / 150))) ** 2) - np.clip(dy, 0, None) / (2.5 * radius))
    return np.stack([
        bore,
        bore * _smoothstep(deep, -0.05 * radius, 0.3 * radius),
        np.exp(-(((away - 2.5) / 2) ** 2)),
        plume * _smoothstep(dy, -radius, radius),
    ]).astype(np.float32)  # fmt: skip


# --- defects --------------------------------------------------------------------------------------


def damage(part: Part, category: str, rng: np.random.Generator) -> None:
    """Paint one or two instances of a category (a key of DEFECTS) into the part and list their masks there."""
    wanted = 1 if category == "burn" else rng.choice((1, 1, 2))
    for _ in range(20):  # tries; instances stay clear of each other
        (albedo, height, gloss), mask = DEFECTS[category](part, rng)
        if not any((_grow(mask, 8) & other).any() for _, other in part.instances):
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
    gap = _strokes(_crack_lines(part, rng)) * (1 - part.bore) * np.clip(0.9 + 0.12 * _noise(rng, 12, 2), 0.5, 1)
    lip = np.clip(_blur(gap, 2.2) * 1.8 - gap, 0, 1)
    height = part.height - 5 * _blur(gap, 0.8) + 1.6 * lip
    albedo = part.albedo * (1 + (0.6 if part.coated else 0.35) * lip)[..., None]
    albedo = _mix(albedo, _rgb(0.012, 0.01, 0.009), gap)
    return (albedo, height, _mix(part.gloss, 0.0, gap)), _grow(gap > 0.3, 2)


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
    patch = _smoothstep(patch + 0.06 * _noise(rng, 12, 3), 0.25, 0.6) * (1 - part.bore)
    bowls *= 1 - part.bore
    rim = np.clip(_blur(bowls, 1.8) - bowls, 0, 1)
    height = part.height - 5 * np.sqrt(bowls) + 4 * rim + 0.5 * patch * _noise(rng, 5, 2)
    albedo = _mix(part.albedo, part.albedo * _rgb(0.62, 0.46, 0.34), patch) * (1 + 0.9 * rim)[..., None]
    albedo = _mix(albedo, _rgb(0.02, 0.014, 0.01), _smoothstep(bowls, 0.05, 0.55))
    return (albedo, height, _mix(part.gloss, 0.15, patch)), _grow(patch > 0.25, 1)


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
    cut = _strokes(lines) * (1 - part.bore)
    chatter = np.clip(0.95 + 0.25 * _noise(rng, 16, 3), 0.5, 1)
    ridge = np.clip(_blur(cut, 1.3) - cut, 0, 1)
    height = part.height - 2.0 * _blur(cut, 0.7) + 2.0 * ridge
    albedo = part.albedo * (1 - 0.7 * ridge)[..., None]
    albedo = _mix(albedo, _rgb(0.9, 0.89, 0.86), cut * chatter)
    return (albedo, height, _mix(part.gloss, 0.9, cut)), _grow(cut > 0.2, 2)


def _burn(part: Part, rng: np.random.Generator) -> Painted:
    """A heat stain with a tinted halo, from a cooling hole downstream."""
    x, y, radius = _hole_near(part, MIDDLE + rng.uniform([-80, -110], [80, -10]))
    length, width, lean = rng.uniform(150, 230), rng.uniform(40, 56), rng.normal(0, 0.2)
    free = _smoothstep(np.hypot(X - x, Y - y), radius, 5 * radius)  # it starts at the hole, whatever becomes of it
    dx, dy = X - x + 10 * free * _noise(rng, 70, 3), Y - y + 15 * free * _noise(rng, 80, 3)
    cosine, sine = math.cos(lean), math.sin(lean)
    along, across = (dy * cosine + dx * sine) / length, dx * cosine - dy * sine
    spread = width * (0.55 + 0.75 * np.clip(along, 0, 1))
    core = np.exp(-((across / spread) ** 2)) * _smoothstep(along, -0.2, 0.1) * _smoothstep(along, 1.15, 0.1)
    heat = np.clip(rng.uniform(0.95, 1.2) * core * (1 + 0.1 * _noise(rng, 24, 4)), 0, 1)
    scale = BURNT_COATING if part.coated else BURNT_METAL
    weight = (1 - part.bore)[..., None]
    albedo = part.albedo * (1 + (_ramp(scale, _smoothstep(heat, 0.05, 1.0)) - 1) * weight)
    height = part.height + 0.4 * heat * _noise(rng, 6, 2) * (1 - part.bore)
    return (albedo, height, _mix(part.gloss, 0.05, np.clip(1.5 * heat, 0, 1))), _grow(heat > 0.26, 1)


DEFECTS: dict[str, Callable[[Part, np.random.Generator], Painted]] = {
    "burn": _burn, "crack": _crack, "pit": _pit, "scratch": _scratch,
}  # fmt: skip


# --- camera ---------------------------------------------------------------------------------------


def photograph(part: Part, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """One view of a part, camera and light a little off: (SIDE, SIDE, 3) uint8 RGB, and its [(category, mask)]."""
    where, sight, lamp = _rays(part.rig, rng)
    y, x = (np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5) * 2 / SIDE - 1
    stop = _smoothstep(np.hypot(x, y), part.rig.stop, part.rig.stop - 0.03)
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
    open_sky = np.clip(1 - 0.12 * np.clip(_blur(part.height, 7) - part.height, 0, 6), 0.2, 1) * (1 - 0.7 * part.bore)
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
    light = cv2.resize(_blur(light, rng.uniform(0.7, 1.1)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    y, x = (np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5) * 2 / SIDE - 1
    spot = (x - rig.beam[0]) ** 2 + (y - rig.beam[1]) ** 2
    light *= (0.2 + 0.8 * np.exp(-0.5 * spot / rig.beam[2] ** 2))[..., None]
    gain = rng.uniform(0.25, 0.6) / np.percentile(light, 80)
    light = light * (gain * rig.balance * rng.normal(1, 0.012, 3)).astype(np.float32)
    light += 0.3 * _blur(np.clip(light - 0.8, 0, 2), 7)  # bloom
    light = light * (stop * (1 - rng.uniform(0.1, 0.25) * (x * x + y * y)))[..., None] + 0.002
    fringe = rng.uniform(0.001, 0.004)
    for channel, scale in ((0, 1 + fringe), (2, 1 - fringe)):
        matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 0, scale)
        light[..., channel] = cv2.warpAffine(light[..., channel], matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    levels = (1 - np.exp(-1.5 * np.clip(light, 0, None))) ** (1 / 2.2)
    levels = 255 * (0.5 * levels + 0.5 * _smoothstep(levels, 0, 1))
    noise = rng.standard_normal((SIDE, SIDE, 3), np.float32) * 0.6 + rng.standard_normal((SIDE, SIDE, 1), np.float32)
    levels += rig.grain * _blur(noise, 0.6) * (0.7 + 0.6 * (1 - levels / 255)) * (0.3 + 0.7 * stop[..., None])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
