"""How much a defect stands out from what surrounds it, and painted defects toned down until they stand out as real ones.

Guidance away from the defect-free component draws a defect where it belongs, and twice as strong as it should be.
"""

from collections.abc import Iterable

import numpy as np
from scipy.optimize import brentq
from scipy.stats import wasserstein_distance

from defect_pipeline.imaging.masks import surroundings

LEAST = 0.25  # times; nor is anything made stronger: a faint defect is one that was not learned, and turns to splashes
SEEN = 0.9  # share of the defects that remain visible
TOLERANCE = 0.01


def contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Wasserstein distance between the values of a (H, W, 3) uint8 image under its mask (H, W bool) and those within
    `masks.NEAR` px of it, as a share of the mean of the latter; the mean of the channels.

    Both a shift of the mean and another spread count. NaN where nothing is under the mask, or nothing around it.
    """
    inside, outside = image[mask].T, image[surroundings(mask)].T  # (3, n)
    if not inside.size or not outside.size:
        return float("nan")
    distances = [wasserstein_distance(a, b) for a, b in zip(inside, outside, strict=True)]
    return float(np.mean(distances) / max(outside.mean(), 1.0))


def typical_contrast(images: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> float:
    """The median `contrast` of images and their masks; NaN where none has one."""
    known = [value for value in map(contrast, images, masks) if not np.isnan(value)]
    return float(np.median(known)) if known else float("nan")


def with_changes(backgrounds: np.ndarray, changes: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Backgrounds (n, H, W, 3) uint8 with ``scale`` times the changes (n, H, W, 3), in grey levels."""
    return np.clip(np.rint(backgrounds + np.float32(scale) * changes), 0, 255).astype(np.uint8)


def matching_scale(
    backgrounds: np.ndarray, changes: np.ndarray, masks: np.ndarray, wanted: float, *, visible: float = 0.0
) -> float:
    """The scale of the changes, at most 1, at which their `typical_contrast` under the masks (n, H, W) is as wanted.

    It is no less than `LEAST`, nor than leaves most of them ``visible``: so many grey levels in the mean under the mask.
    Some real defects are fainter than that beside what surrounds them; a label on nothing teaches nothing.
    """

    def excess(scale: float) -> float:
        return typical_contrast(with_changes(backgrounds, changes, scale), masks) - wanted

    if not excess(1.0) > 0:  # nor where nothing is known
        return 1.0
    under = [np.abs(change[mask]).mean() for change, mask in zip(changes, masks, strict=True)]
    least = min(1.0, max(LEAST, visible / max(np.quantile(under, 1 - SEEN), 1e-6)))
    return least if excess(least) >= 0 else float(brentq(excess, least, 1.0, xtol=TOLERANCE))
