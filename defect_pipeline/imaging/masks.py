"""Instance masks: their codes and components, and the mask bank that puts known shapes where no defect was seen."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.geometry import crop_resize, resize_mask, square_crop
from defect_pipeline.imaging.io import read_mask

NEAR = 8  # px around a mask
FINE = 4  # shapes are bent on a grid this much finer: a crack of one pixel would tear on its own grid
THIN = 64  # of 255: covered by so much of an enlarged mask, a pixel belongs to it, or a line of one pixel would tear
SPILL = 0.02  # share of a mask that may be cut off at the component's edge without looking for a better place
SHIFT = 0.25  # of the picture's sides: how far a mask moves from where it was annotated
MAX_SPILL = 0.5  # above this share the mask is given up: what is left would be another shape
DARK = 0.25  # of the bright end of the picture (90th percentile): below lies the field stop or an unlit background
MIN_BACKGROUND, MAX_BACKGROUND = 0.01, 0.95  # shares of the picture in which a background is believed


Vary = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # an instance (H, W bool) to another like it


def encode(mask: np.ndarray) -> str:
    """(H, W) bool to the `counts` of COCO's compressed RLE, as text that JSON takes."""
    return rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def decode(counts: str, height: int, width: int) -> np.ndarray:
    """The (height, width) bool mask behind COCO's compressed RLE `counts`."""
    return rle.decode({"size": [height, width], "counts": counts.encode("ascii")}).astype(bool)


def instances_of(mask: np.ndarray, min_area: int = 1) -> list[np.ndarray]:
    """The 8-connected components of a (H, W) bool mask that have at least `min_area` pixels, each (H, W) bool."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [labels == label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= min_area]


def bbox(mask: np.ndarray) -> list[int]:
    """[x, y, w, h] in px of a (H, W) bool mask, as COCO counts them; [0, 0, 0, 0] for an empty one."""
    return [int(side) for side in cv2.boundingRect(mask.astype(np.uint8))]


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """The (H, W) bool mask and everything within `radius` px of it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def surroundings(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: what lies within NEAR px of a mask, and not under it."""
    return dilated(mask, NEAR) & ~mask


def component_mask(image: np.ndarray) -> np.ndarray:
    """Where the inspected component is in a (H, W, 3) uint8 image: (H, W) bool.

    Left out is what is nearly black and reaches the edge of the picture: a borescope's field stop, an unlit background.
    True everywhere when there is no clear background of that kind.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (5, 5), 0)
    dark = np.pad(grey < DARK * np.percentile(grey, 90), 1, constant_values=True)
    outside = _component_at(dark, 0, 0)[1:-1, 1:-1]
    if not MIN_BACKGROUND <= outside.mean() <= MAX_BACKGROUND:
        return np.ones_like(outside)
    # dents narrower than a few pixels are grain and grooves that happen to reach the edge, not background
    opened = cv2.morphologyEx((~outside).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    return _largest(opened.astype(bool))


def perturb_shape(
    mask: np.ndarray, rng: np.random.Generator, *, rotation: float = 12.0, scale: float = 0.2, bend: float = 0.06
) -> np.ndarray:
    """A like shape at the same place: one instance (H, W bool) turned, scaled, bent, thickened or thinned a little.

    Up to `rotation` degrees, 1 +- `scale`, and `bend` of its length, about its own middle. It keeps its number of
    pieces and holes and between half and twice its area; where it ran out of the picture it still does. Never empty
    unless `mask` is.
    """
    for strength in (1.0, 1.0, 0.5, 0.5, 0.25):
        turn = math.radians(rng.uniform(-rotation, rotation)) * strength
        factor = 1 + rng.uniform(-scale, scale) * strength
        changed = _warped(mask, turn, factor, bend * strength, int(rng.integers(-1, 2)), rng)
        if _topology(changed) == _topology(mask) and 0.5 <= changed.sum() / mask.sum() <= 2:
            return changed
    return mask.copy()  # a shape on the brink of falling apart, such as two pixels that touch at a corner


def resized(mask: np.ndarray, factor: float) -> np.ndarray:
    """One instance (H, W bool), `factor` times as long and as wide, at its place; not thinner than a pixel.

    Where the edge of the picture cuts it, it grows and shrinks from there; between two opposite edges it keeps its
    extent. The same mask where it would fall apart, or where a hole would open or close.
    """
    x, y, w, h = bbox(mask)
    axes = zip((x, y), (w, h), mask.shape[::-1], strict=True)
    factors, anchors = np.array([_anchored(factor, *axis) for axis in axes]).T
    if factor > 1:
        matrix = np.column_stack([np.diag(factors), (1 - factors) * (anchors - 0.5)])
        changed = cv2.warpAffine(mask.astype(np.uint8) * np.uint8(255), matrix, mask.shape[::-1]) > THIN
    else:
        places = (np.argwhere(mask)[:, ::-1] + 0.5 - anchors) * factors + anchors
        columns, rows = places.astype(int).T
        changed = np.zeros_like(mask)
        changed[rows, columns] = True
    return changed if _topology(changed) == _topology(mask) else mask.copy()


def like_annotated(sizes: tuple[float, float]) -> Vary:
    """Strategy (i): an annotated instance, from `sizes[0]` to `sizes[1]` times as large and perturbed."""
    if sizes == (1, 1):
        return perturb_shape
    low, high = np.log(sizes)

    def vary(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return perturb_shape(resized(mask, float(np.exp(rng.uniform(low, high)))), rng)

    return vary


def _anchored(factor: float, start: int, extent: int, side: int) -> tuple[float, float]:
    """The factor along one axis, and what stays where it is, for an instance that takes up `extent` px of `side`."""
    first, last = start == 0, start + extent == side
    if first and last:
        return 1.0, 0.0
    return factor, 0.0 if first else float(side) if last else start + extent / 2


def sample_masks(
    sources: Sequence[Sequence[np.ndarray]],
    component: np.ndarray,
    n: int,
    rng: np.random.Generator,
    *,
    shift: float = SHIFT,
    vary: Vary = perturb_shape,
    likely: np.ndarray | None = None,
) -> list[list[np.ndarray]]:
    """`n` sets of instance masks of one class, each modelled on the set of one source image.

    `sources` are those sets, [(H, W) bool, ...] per image, `component` (H, W bool) is where the set may lie. Each set
    is mirrored at random, each instance changed by `vary` (strategy (i) of the paper by default) and moved by up to
    `shift` of the picture's sides to a place inside the component and clear of the others; one that touches the edge of
    the picture stays where it is on that axis, so that no cut edge comes to light. With `likely` (H, W float, not
    negative) places are drawn in proportion to its mean under the mask. Raises PipelineError when nothing fits.
    """
    sets: list[list[np.ndarray]] = []
    order: list[int] = []
    misses = 0
    while len(sets) < n:
        if misses >= 3 * len(sources):
            raise PipelineError(
                f"None of {len(sources)} source masks fits into the component ({component.mean():.0%} of the picture): "
                "annotate more images of this class, or leave out defect-free images that show little of the component."
            )
        order = order or rng.permutation(len(sources)).tolist()  # every source in turn, none left out by chance
        placed = _place_set(sources[order.pop()], component, rng, shift, vary, likely)
        misses = 0 if placed else misses + 1
        if placed:
            sets.append(placed)
    return sets


def read_hand_drawn(folder: Path, size: int) -> list[np.ndarray]:
    """Strategy (ii): the masks an expert drew, one PNG each in the order of their names, as (size, size) bool.

    A drawing that is not square is cut to the square that holds the most of it, then resized NEAREST.
    Raises PipelineError for a folder without PNGs, a file that cannot be read and an empty drawing.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".png")
    if not paths:
        raise PipelineError(f"{folder} holds no PNG: draw at least one mask, white on black.")
    drawn = []
    for path in paths:
        mask = read_mask(path)
        if not mask.any():
            raise PipelineError(f"{path} is empty: draw the defect in white on black, or remove the file.")
        drawn.append(crop_resize(mask, square_crop(mask.shape, mask), size))
    return drawn


def _component_at(mask: np.ndarray, x: int, y: int) -> np.ndarray:
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    return labels == labels[y, x]


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected component; an empty mask stays empty."""
    return max(instances_of(mask), key=np.count_nonzero, default=mask)


def _topology(mask: np.ndarray) -> tuple[int, int]:
    """(pieces, regions of the rest): tearing changes the first, opening or closing a loop the second."""
    pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]
    rest = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4)[0]
    return pieces - 1, rest - 1


def _warped(
    mask: np.ndarray, turn: float, factor: float, bend: float, thicken: int, rng: np.random.Generator
) -> np.ndarray:
    """(H, W) bool, turned (radians) and scaled about its middle, bent at random, `thicken` / FINE px wider around."""
    x, y, w, h = bbox(mask)
    pad = 4 + int(0.3 * max(w, h))
    # what runs out of the picture goes on out there, or turning it would bring its cut edge into the picture
    extended = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    patch = extended[y : y + h + 2 * pad, x : x + w + 2 * pad]
    rows, columns = patch.shape
    fine = cv2.resize(patch * np.uint8(255), (columns * FINE, rows * FINE), interpolation=cv2.INTER_NEAREST)
    warped = cv2.remap(fine, *_source(fine.shape, turn, factor, bend * FINE * max(w, h), rng), cv2.INTER_LINEAR)
    if thicken:
        grow = cv2.dilate if thicken > 0 else cv2.erode
        width = 2 * abs(thicken) + 1
        warped = grow(warped, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    canvas = np.zeros(extended.shape, dtype=bool)
    canvas[y : y + rows, x : x + columns] = resize_mask(warped > 127, (rows, columns))
    return canvas[pad:-pad, pad:-pad]


def _source(
    shape: tuple[int, ...], turn: float, factor: float, bend: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the warped patch comes from: columns and rows, float32; `bend` is in px of this patch."""
    rows, columns = shape
    dy, dx = np.mgrid[:rows, :columns].astype(np.float32) - np.array([[[rows / 2]], [[columns / 2]]], np.float32)
    cosine, sine = math.cos(turn) / factor, math.sin(turn) / factor
    knots = rng.uniform(-bend, bend, (4, 4, 2)).astype(np.float32)  # so coarse that shapes bend and do not fray
    bends = cv2.resize(knots, (columns, rows), interpolation=cv2.INTER_CUBIC)
    x = cosine * dx + sine * dy + columns / 2 + bends[..., 0]
    y = cosine * dy - sine * dx + rows / 2 + bends[..., 1]
    return x.astype(np.float32), y.astype(np.float32)


def _place_set(
    instances: Sequence[np.ndarray],
    component: np.ndarray,
    rng: np.random.Generator,
    shift: float,
    vary: Vary,
    likely: np.ndarray | None,
) -> list[np.ndarray]:
    """The instances, changed, mirrored together and placed; those that find no room are left out."""
    flip = tuple(slice(None, None, int(step)) for step in rng.choice((-1, 1), 2))
    free = component.copy()
    placed = []
    for instance in sorted(instances, key=np.count_nonzero, reverse=True):  # the small find room beside the large
        mask = _place(vary(instance[flip], rng), free, rng, shift, likely)
        if mask.any():
            placed.append(mask)
            free &= ~cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return placed


def _place(
    mask: np.ndarray, free: np.ndarray, rng: np.random.Generator, shift: float, likely: np.ndarray | None
) -> np.ndarray:
    """The mask moved to a random place among those that lie best in `free`, cut to it; empty when it fits nowhere."""
    x, y, w, h = bbox(mask)
    shape = mask[y : y + h, x : x + w]
    spill = cv2.matchTemplate((~free).astype(np.float32), shape.astype(np.float32), cv2.TM_CCORR) / shape.sum()
    rows, columns = (
        _reach(start, extent, side, shift) for start, extent, side in zip((y, x), (h, w), mask.shape, strict=True)
    )
    near = spill[rows, columns]
    if near.min() > MAX_SPILL:
        return np.zeros_like(mask)
    places = np.argwhere(near <= max(SPILL, near.min()))
    chances = None
    if likely is not None:
        score = cv2.matchTemplate(likely.astype(np.float32), shape.astype(np.float32), cv2.TM_CCORR)[rows, columns]
        chances = np.maximum(score[tuple(places.T)].astype(np.float64), 0)
        chances = chances / chances.sum() if chances.sum() > 0 else None
    top, left = rng.choice(places, p=chances) + (rows.start, columns.start)
    moved = np.zeros_like(mask)
    moved[top : top + h, left : left + w] = shape
    inside = moved & free
    # a shape that was whole stays whole; a group of scratches may lie in several pieces
    return inside if _topology(moved)[0] > 1 else _largest(inside)


def _reach(start: int, extent: int, side: int, shift: float) -> slice:
    """The first rows (or columns) that a shape may move to; one at the edge of the picture stays there."""
    if start == 0 or start + extent == side:
        return slice(start, start + 1)
    reach = round(shift * side)
    return slice(max(1, start - reach), min(side - extent - 1, start + reach) + 1)
