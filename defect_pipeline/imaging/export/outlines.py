"""Masks as polygons along the edges of their pixels, so that what a polygon encloses is the mask to the last pixel.

Coordinates are COCO's: pixel (row, column) is the square from (x, y) = (column, row) to (column + 1, row + 1).
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from scipy.spatial import cKDTree

SIDES = (  # of a pixel, clockwise: the (row, column) step to its neighbour there, and the corners (x, y) that it joins
    ((-1, 0), (0, 0), (1, 0)),
    ((0, 1), (1, 0), (1, 1)),
    ((1, 0), (1, 1), (0, 1)),
    ((0, -1), (0, 1), (0, 0)),
)


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons (n, 2) int of x and y whose union is the (H, W) bool mask, with no point twice and no two overlapping.

    No format here can say "but for the hole", so a piece with a hole is cut in two through it, straight down, until no
    hole is left. The cut has no width: not a pixel is lost.
    """
    return [_outline(piece) + corner for piece, corner in _pieces(mask)]


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon (n, 2) that visits all polygons, each from the nearest point and back: for a format of one polygon.

    The ways between are walked twice, so they enclose nothing; a tool that draws outlines shows them as a thin line.
    """
    whole, rest = rings[0], list(rings[1:])
    while rest:
        tree = cKDTree(whole)
        near = [tree.query(ring) for ring in rest]  # of each its points' distances to the whole, and to which points
        k = min(range(len(rest)), key=lambda k: near[k][0].min())
        start = int(near[k][0].argmin())
        at = int(near[k][1][start])
        ring = np.roll(rest.pop(k), -start, axis=0)
        whole = np.concatenate([whole[: at + 1], ring, ring[:1], whole[at:]])
    return whole[(whole != np.roll(whole, 1, axis=0)).any(axis=1)]  # pieces that touch share a point


def _pieces(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of the mask without holes (h, w) bool, as small as they can be, and their corner (x, y) in it.

    Pixels of a piece hang together by their sides, and so do those of a hole: then an outline never meets itself.
    """
    todo = [(mask, np.zeros(2, dtype=int))]
    while todo:
        piece, corner = todo.pop()
        count, labels, stats, _ = cv2.connectedComponentsWithStats(piece.astype(np.uint8), connectivity=4)
        for label in range(1, count):
            left, top, width, height = stats[label, :4]
            piece = labels[top : top + height, left : left + width] == label
            place = corner + (left, top)
            cut = _column_of_a_hole(piece)
            if cut is None:
                yield piece, place
            else:
                todo += [(piece[:, cut:], place + (cut, 0)), (piece[:, :cut], place)]


def _column_of_a_hole(piece: np.ndarray) -> int | None:
    """The middle column of some hole; None where there is none."""
    around = np.pad(~piece, 1, constant_values=True).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(around, connectivity=4)
    holes = [label for label in range(1, count) if label != labels[0, 0]]
    if not holes:
        return None
    left, _, width = stats[holes[0], :3]
    return int(left + width // 2) - 1  # the frame is a pixel wide


def _outline(piece: np.ndarray) -> np.ndarray:
    """The corners (n, 2) of a piece in one piece without holes, clockwise as seen."""
    height, width = piece.shape
    framed = np.pad(piece, 1)
    after = {}
    for (down, right), (x0, y0), (x1, y1) in SIDES:
        neighbour = framed[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        for y, x in np.argwhere(piece & ~neighbour).tolist():
            after[x + x0, y + y0] = (x + x1, y + y1)
    point = min(after)
    walk = []
    while point in after:
        walk.append(point)
        point = after.pop(point)
    ring = np.array(walk)
    turns = (ring - np.roll(ring, 1, axis=0) != np.roll(ring, -1, axis=0) - ring).any(axis=1)
    return ring[turns]
