"""Where on the component defects of a class occur, learned from annotated masks.

Parts turn, shift and zoom from image to image, so a place is told by what is near it and not by its coordinates: how
far it is to the nearest structure (a hole, a seam, an edge) and to the end of the component. How much oftener defects
lie at such places than chance would have it is a table, and the table makes a map of any defect-free image.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from defect_pipeline.imaging.drivers import BACKGROUND_MAX, background
from defect_pipeline.imaging.masks import component_mask

STRUCTURE = (0.0, 0.02, 0.05, 0.1, 0.2, np.inf)  # bins of the distance to structure, in sides of the image
EDGE = (0.0, 0.05, 0.15, 0.3, np.inf)  # bins of the distance to the end of the component
CHANCE = 1.0  # images' worth of defects spread by chance that are added: few annotations shall not forbid a place


@dataclass(frozen=True)
class Placement:
    """How much oftener than by chance a defect's pixel lies in each bin; 1 is chance."""

    ratio: np.ndarray  # (len(STRUCTURE) - 1, len(EDGE) - 1)

    @classmethod
    def fit(cls, annotated: Iterable[tuple[np.ndarray, np.ndarray]]) -> "Placement":
        """From square images (S, S, 3) uint8 and their masks (S, S bool), all images weighing alike."""
        shape = len(STRUCTURE) - 1, len(EDGE) - 1
        under, anywhere = np.zeros(shape), np.zeros(shape)
        for image, mask in annotated:
            bins, component = _bins(image, mask)
            chance = _shares(bins, component, shape)
            under += _shares(bins, mask & component, shape)
            anywhere += chance
        mean = anywhere / max(anywhere.sum(), 1e-9)
        total = under.sum()
        smoothed = (under + CHANCE * mean) / (total + CHANCE)
        return cls(np.where(mean > 0, smoothed / np.maximum(mean, 1e-9), 1.0))

    def map(self, image: np.ndarray) -> np.ndarray:
        """(S, S) float32 for a defect-free image (S, S, 3) uint8: the ratio at each pixel, 0 off the component."""
        bins, component = _bins(image, np.zeros(image.shape[:2], bool))
        return np.where(component, self.ratio[bins], 0).astype(np.float32)


def _bins(image: np.ndarray, hidden: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The two bins of each pixel, and where the component is; what ``hidden`` covers makes no structure."""
    side, component = image.shape[0], component_mask(image)
    structure = background(image, side, hidden=hidden) < BACKGROUND_MAX / 2
    to_structure, to_edge = (
        cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / side
        for free in (~structure, component)
    )
    bins = np.digitize(to_structure, STRUCTURE[1:-1]), np.digitize(to_edge, EDGE[1:-1])
    return bins, component


def _shares(bins: tuple[np.ndarray, np.ndarray], where: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The share of the pixels ``where`` in each bin; zeros where there are none."""
    counts = np.zeros(shape)
    np.add.at(counts, (bins[0][where], bins[1][where]), 1)
    return counts / max(counts.sum(), 1)
