"""Does the defect stand where its mask says: against a twin without it, and in the eyes of a segmentor.

A twin is painted from the same noise on the same structure, the mask left out of its driver. What differs between the
two is what the mask did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

NEAR = 8  # px around a mask
SMALL = 0.01  # share of the image; a mask below it counts as small, and is held to less


@dataclass(frozen=True)
class TwinFigures:
    """Over n images of a class; ratios are medians, for a twin may happen to hardly differ anywhere outside."""

    inside: float  # mean change under the masks, grey levels of 255
    ratio: float  # change under the mask / change elsewhere
    ratio_near: float  # change under the mask / change within NEAR px around it
    median_area: float  # share of the image under the mask
    n: int

    @property
    def wanted(self) -> float:
        """The ratio to reach: 3, or 2 for a class whose masks are small."""
        return 3.0 if self.median_area > SMALL else 2.0


def change(image: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """(H, W) float64: how much each pixel of two (H, W, 3) uint8 images differs, in grey levels, over the channels."""
    return np.abs(image.astype(np.float64) - twin).mean(axis=2)


def twin_figures(images: Sequence[np.ndarray], twins: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> TwinFigures:
    """Compare images with their twins under and outside their masks (H, W) bool, none of which may be empty."""
    inside, ratios, ratios_near = [], [], []
    for image, twin, mask in zip(images, twins, masks, strict=True):
        changed = change(image, twin)
        inside.append(changed[mask].mean())
        ratios.append(_ratio(changed, mask, ~mask))
        ratios_near.append(_ratio(changed, mask, _around(mask)))
    return TwinFigures(
        float(np.mean(inside)), float(np.median(ratios)), float(np.median(ratios_near)),
        float(np.median([mask.mean() for mask in masks])), len(masks),
    )  # fmt: skip


def _ratio(changed: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> float:
    """Mean change inside / outside; infinite where nothing changed outside."""
    beside = changed[outside].mean() if outside.any() else 0.0
    return float(changed[inside].mean() / beside) if beside else float("inf")


def _around(mask: np.ndarray) -> np.ndarray:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * NEAR + 1, 2 * NEAR + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool) & ~mask
