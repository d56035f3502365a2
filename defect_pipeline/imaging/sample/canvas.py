"""Layers of a part: noise, strokes and colour scales on a canvas of CANVAS x CANVAS px, (S, S) for short."""

from collections.abc import Sequence

import cv2
import numpy as np

CANVAS = 608  # px of a part; a photograph shows about the middle 384
MIDDLE = CANVAS / 2
Y, X = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)  # (S, S) px


def fractal(rng: np.random.Generator, cell: float, octaves: int = 4, stretch: float = 1.0) -> np.ndarray:
    """(S, S) float32 fractal noise of unit deviation; `cell` px is its coarsest grain, `stretch` times longer in x."""
    total = np.zeros((CANVAS, CANVAS), np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, round(CANVAS * 2**octave / side)) for side in (cell, cell * stretch))
        grid = rng.standard_normal((min(rows, CANVAS), min(columns, CANVAS)), np.float32)
        total += cv2.resize(grid, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total - total.mean()) / total.std()


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the other way round), smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def strokes(lines: list[tuple[np.ndarray, float, float]]) -> np.ndarray:
    """(S, S) float32 coverage of polylines, each ((n, 2) points, width at its start, width at its end)."""
    drawn = np.zeros((2 * CANVAS, 2 * CANVAS), np.uint8)  # twice as fine, since widths are whole numbers here
    for points, start, end in lines:
        knots = np.rint(points * 2 * 16).astype(int).tolist()
        for i, width in enumerate(np.linspace(2 * start, 2 * end, len(knots) - 1)):
            cv2.line(drawn, knots[i], knots[i + 1], 255, max(1, round(width)), cv2.LINE_AA, 4)
    return cv2.resize(drawn, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` px."""
    return cv2.GaussianBlur(values, (0, 0), sigma)


def ramp(colours: Sequence[Sequence[float]], at: np.ndarray) -> np.ndarray:
    """(S, S, 3) colours of a scale, looked up at (S, S) positions 0..1."""
    table = cv2.resize(np.array([colours], np.float32), (256, 1), interpolation=cv2.INTER_LINEAR)[0]
    return table[np.clip(at * 255, 0, 255).astype(np.uint8)]


def rgb(*values: float) -> np.ndarray:
    """(3,) float32."""
    return np.array(values, np.float32)


def mix(values: np.ndarray, target: np.ndarray | float, weight: np.ndarray) -> np.ndarray:
    """From `values` where the (S, S) weight is 0 to `target` where it is 1, float32."""
    weight = weight[..., None] if values.ndim > weight.ndim else weight
    return (values + (target - values) * weight).astype(np.float32)
