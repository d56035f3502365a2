"""Images of any shape to the square that the generator works on, without distortion and without losing a thin mask."""

import math

import cv2
import numpy as np

Box = tuple[int, int, int]  # x0, y0, side (px)
SURROUNDINGS = 1.5  # a defect fills two thirds of its crop at most


def square_crop(
    shape: tuple[int, ...],
    focus: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    *,
    zoom: float = 1.0,
    min_side: int = 1,
) -> Box:
    """Where to cut a square out of an image of `shape` (H, W[, C]); a squash would bend every round defect.

    The side is the short side / `zoom` (>= 1), but at least `min_side` and SURROUNDINGS times the extent of `focus`
    (H, W bool) as far as the image allows: a large defect keeps something around it. The square holds as many pixels
    of the focus as any square of its side can. Where several places hold as many: a random one with `rng`, else the
    one in their middle. Without a focus, or with an empty one, every place is as good.
    """
    height, width = shape[:2]
    extent = 0 if focus is None else max(cv2.boundingRect(focus.astype(np.uint8))[2:])
    side = min(max(min_side, round(min(height, width) / zoom), round(SURROUNDINGS * extent)), height, width)
    if not extent or focus is None:
        rows, columns = height - side, width - side
        return (columns // 2, rows // 2, side) if rng is None else _draw(rng, columns, rows, side)
    held = _pixels_held(focus, side)
    y, x = np.nonzero(held == held.max())
    best = np.hypot(x - x.mean(), y - y.mean()).argmin() if rng is None else rng.integers(len(x))
    return int(x[best]), int(y[best]), side


def crop_resize(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The square `box` of an image (H, W[, C] uint8) or of a mask (H, W bool), resized to (size, size[, C])."""
    x, y, side = box
    return _resize(pixels[y : y + side, x : x + side], (size, size))


def short_side_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """An image (H, W[, C] uint8) or a mask (H, W bool), its short side brought to ``size`` px."""
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    return _resize(pixels, (round(height * scale), round(width * scale)))


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool to `shape` (rows, columns) by NEAREST, except that nothing vanishes or falls apart.

    NEAREST skips source pixels when it shrinks. What is too narrow to be sure of a sample (a crack, a pit) is therefore
    kept by another rule: each of its pixels marks the pixel it falls into.
    """
    rows, columns = shape
    flat = mask.astype(np.uint8)
    resized = cv2.resize(flat, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    stride = (math.ceil(mask.shape[0] / rows), math.ceil(mask.shape[1] / columns))
    if max(stride) > 1:
        wide = cv2.morphologyEx(
            flat, cv2.MORPH_OPEN, np.ones(stride, np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
        )
        y, x = np.nonzero(flat > wide)
        resized[y * rows // mask.shape[0], x * columns // mask.shape[1]] = True
    return resized


def _resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if pixels.dtype == bool:
        return resize_mask(pixels, shape)
    shrinks = pixels.shape[0] > shape[0]
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _draw(rng: np.random.Generator, columns: int, rows: int, side: int) -> Box:
    return int(rng.integers(columns + 1)), int(rng.integers(rows + 1)), side


def _pixels_held(focus: np.ndarray, side: int) -> np.ndarray:
    """(H - side + 1, W - side + 1) int: how many pixels of the focus each square of that side holds."""
    total = cv2.integral(focus.astype(np.uint8))
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
