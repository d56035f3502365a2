"""A shape model of a class's defects: principal components of their signed distance maps (mask strategy iii)."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.masks import bbox, instances_of

GRID = 64  # px; the longer side of a shape is FILLED of it
FILLED = 44
KEPT = 0.95  # share of the variance that the components explain
CLIP = 2.0  # standard deviations at most from the mean shape, in any component
SPECK = 0.05  # a piece smaller than this share of the largest is left out


@dataclass(frozen=True)
class ShapeModel:
    """What instances of a class look like: a mean signed distance map, directions in which they differ, their sizes.

    `lengths` are those of the longer sides of the shapes that it was fitted to, px.
    """

    mean: np.ndarray  # (GRID * GRID,) px of the grid, positive inside
    components: np.ndarray  # (k, GRID * GRID), orthonormal
    deviations: np.ndarray  # (k,)
    lengths: np.ndarray  # (n,)

    @classmethod
    def fit(cls, instances: Sequence[np.ndarray]) -> "ShapeModel":
        """From instance masks (H, W bool), each in its four mirror images. Raises PipelineError below two shapes."""
        shapes = [shape for mask in instances for shape in mirrored(on_grid(mask))]
        if len(instances) < 2:
            raise PipelineError("A shape model needs two annotated instances of the class at least; annotate more.")
        maps = np.stack([_signed_distance(shape).ravel() for shape in shapes])
        mean = maps.mean(axis=0)
        _, singular, axes = np.linalg.svd(maps - mean, full_matrices=False)
        variances = singular**2 / (len(maps) - 1)
        kept = int(np.searchsorted(np.cumsum(variances) / variances.sum(), KEPT)) + 1
        lengths = np.array([max(bbox(mask)[2:]) for mask in instances], float)
        return cls(mean, axes[:kept], np.sqrt(variances[:kept]), lengths)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A new shape on the grid, (GRID, GRID) bool, not empty; coefficients are normal, clipped at CLIP deviations."""
        for _ in range(10):
            coefficients = np.clip(rng.normal(0, 1, len(self.deviations)), -CLIP, CLIP) * self.deviations
            shape = (self.mean + coefficients @ self.components).reshape(GRID, GRID) > 0
            pieces = instances_of(shape)
            if pieces:
                largest = max(piece.sum() for piece in pieces)
                return np.any([piece for piece in pieces if piece.sum() >= SPECK * largest], axis=0)
        nearest = (self.mean >= self.mean.max()).reshape(GRID, GRID)  # thin shapes: their mean may be empty
        return nearest

    def vary(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Another shape of the class in the place of one instance (H, W bool), of a length that instances have."""
        shape = self.sample(rng)
        x, y, w, h = bbox(shape)
        length = float(rng.choice(self.lengths)) * rng.uniform(0.9, 1.1)
        factor = length / max(w, h)
        size = max(1, round(w * factor)), max(1, round(h * factor))
        fine = cv2.resize(shape[y : y + h, x : x + w].astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        fine = fine if fine.any() else np.ones_like(fine)
        middle_x, middle_y, wide, high = bbox(mask)
        left, top = (
            round(np.clip(middle + side / 2 - new / 2, 0, max(0, room - new)))
            for middle, side, new, room in zip((middle_x, middle_y), (wide, high), size, mask.shape[::-1], strict=True)
        )
        placed = np.zeros_like(mask)
        region = placed[top : top + size[1], left : left + size[0]]
        region |= fine[: region.shape[0], : region.shape[1]]
        return placed


def on_grid(mask: np.ndarray) -> np.ndarray:
    """The instance on the grid, (GRID, GRID) bool: FILLED long, in the middle, its proportions kept."""
    x, y, w, h = bbox(mask)
    factor = FILLED / max(w, h)
    size = max(1, round(w * factor)), max(1, round(h * factor))
    scaled = cv2.resize(mask[y : y + h, x : x + w].astype(np.float32), size, interpolation=cv2.INTER_LINEAR) >= 0.5
    grid = np.zeros((GRID, GRID), bool)
    left, top = (GRID - size[0]) // 2, (GRID - size[1]) // 2
    grid[top : top + size[1], left : left + size[0]] = scaled
    return grid


def mirrored(shape: np.ndarray) -> list[np.ndarray]:
    """A shape in its four mirror images."""
    return [shape[::vertical, ::horizontal] for vertical in (1, -1) for horizontal in (1, -1)]


def _signed_distance(shape: np.ndarray) -> np.ndarray:
    """(GRID, GRID) float32: px to the outline, positive inside."""
    inside, outside = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (shape, ~shape)
    )
    return inside - outside
