"""Does the defect stand where its mask says: against a twin without it.

A twin is painted from the same noise on the same structure, the mask left out of its driver. What differs between the
two is what the mask did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from defect_pipeline.imaging.masks import dilated, instances_of, surroundings
from defect_pipeline.lazy import pd

SMALL = 0.01  # share of the image; a mask below it counts as small, and is held to less
REACH = 4  # px that a refined mask may grow beyond the one it refines
SPECK = 4  # px; a smaller piece of a refined mask is grain


@dataclass(frozen=True)
class TwinFigures:
    """Over n images of a class; ratios are medians, for a twin may happen to hardly differ anywhere outside."""

    inside: float  # mean change under the masks, grey levels of 255
    ratio: float  # change under the mask / change elsewhere
    ratio_near: float  # change under the mask / change within `masks.NEAR` px around it
    median_area: float  # share of the image under the mask
    n: int

    def wanted(self, ratio: float) -> float:
        """The ratio to reach: two thirds of ``ratio`` for a class whose masks are small."""
        return ratio if self.median_area > SMALL else ratio * 2 / 3


def change(image: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """(H, W) float64: how much each pixel of two (H, W, 3) uint8 images differs, in grey levels, over the channels."""
    return np.abs(image.astype(np.float64) - twin).mean(axis=2)


def twin_table(images: Sequence[np.ndarray], twins: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> pd.DataFrame:
    """A row for each image and its twin, under and outside its mask (H, W) bool, which must not be empty.

    Columns: inside (mean change under the mask, grey levels), ratio and ratio_near (as in `TwinFigures`), area (share).
    """
    rows = []
    for image, twin, mask in zip(images, twins, masks, strict=True):
        changed = change(image, twin)
        rows.append(
            {
                "inside": changed[mask].mean(),
                "ratio": _ratio(changed, mask, ~mask),
                "ratio_near": _ratio(changed, mask, surroundings(mask)),
                "area": mask.mean(),
            }
        )
    return pd.DataFrame(rows)


def twin_figures(table: pd.DataFrame) -> TwinFigures:
    """The figures of a `twin_table`."""
    return TwinFigures(
        float(table["inside"].mean()), float(table["ratio"].median()), float(table["ratio_near"].median()),
        float(table["area"].median()), len(table),
    )  # fmt: skip


def refined_mask(changed: np.ndarray, mask: np.ndarray, least: float = 0.5, most: float = 2.0) -> np.ndarray:
    """The mask (H, W bool) shrunk or grown to what visibly changed (`change` to the twin), within REACH px of it.

    Visible is what changed more than Otsu's threshold of the changes there. The mask itself comes back where that is
    less than ``least`` or more than ``most`` times as large, or changed less than twice as much as the rest: then the
    change is no better a label than the mask.
    """
    around = dilated(mask, REACH)
    levels = np.clip(np.rint(cv2.GaussianBlur(changed, (0, 0), 1.0)), 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels[around], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    visible = np.zeros_like(mask)
    for piece in instances_of((levels > threshold) & around, min_area=SPECK):
        visible |= piece
    rest = around & ~visible
    clear = visible.any() and (not rest.any() or changed[visible].mean() > 2 * changed[rest].mean())
    return visible if clear and least * mask.sum() <= visible.sum() <= most * mask.sum() else mask


def _ratio(changed: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> float:
    """Mean change inside / outside; infinite where nothing changed outside, 0 where nothing changed at all."""
    under, beside = changed[inside].mean(), changed[outside].mean() if outside.any() else 0.0
    return float(under / beside) if beside else float("inf") if under else 0.0
