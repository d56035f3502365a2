"""Boxes, polygons and both forms of RLE to masks. What comes from a file is not trusted."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def fill(outline: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a box or COCO segmentation. Raises ValueError or TypeError, saying what is wrong with it."""
    if isinstance(outline, tuple):
        mask = _box(outline, height, width)
    elif isinstance(outline, list) and outline:
        mask = _polygons(outline, height, width)
    elif isinstance(outline, dict):
        mask = _rle(outline, height, width)
    else:
        raise ValueError("no segmentation")
    if not mask.any():
        raise ValueError("covers no pixel of the image (zero area)")
    return mask


def _box(box: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    if np.isnan(box).any():
        raise ValueError("degenerate box (not four numbers)")
    left, right = (round(min(max(x, 0), width)) for x in box[0::2])
    top, bottom = (round(min(max(y, 0), height)) for y in box[1::2])
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _polygons(polygons: list[Any], height: int, width: int) -> np.ndarray:
    for polygon in polygons:
        points = np.asarray(polygon, dtype=float)
        if points.ndim != 1 or points.size < 6 or points.size % 2:
            raise ValueError("degenerate polygon (fewer than 3 points)")
        if not np.isfinite(points).all():
            raise ValueError("degenerate polygon (NaN or infinite)")
        if np.abs(points).max() > 2 * max(height, width):  # pycocotools' memory grows with the outline's length
            raise ValueError("polygon far outside the image")
        x, y = points[0::2] - points[0], points[1::2] - points[1]
        if abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) < 1e-9:
            raise ValueError("degenerate polygon (zero area)")
    parts = coco_mask.frPyObjects([[float(side) for side in polygon] for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def _rle(rle: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Both COCO forms. Unpacked here, since pycocotools trusts the counts and reads on past the end of damaged ones."""
    if list(rle.get("size", ())) != [height, width]:
        raise ValueError(f"RLE of size {rle.get('size')} on an image of {[height, width]} (height, width)")
    counts = rle.get("counts")
    runs = np.asarray(_unpacked(counts) if isinstance(counts, str) else counts)
    whole = height * width
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or ((runs < 0) | (runs > whole)).any() or runs.sum() != whole:
        raise ValueError("RLE counts do not add up to the image")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T  # column by column


def _unpacked(counts: str) -> list[int]:
    """Run lengths of compressed counts: 5 bits a character, a bit for "more", each run less the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 40:
            raise ValueError("RLE counts are damaged")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("RLE counts are cut off")
    return runs
