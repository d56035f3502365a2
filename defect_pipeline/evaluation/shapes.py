"""Are made-up masks like real ones: their measures against those of held-out masks, and how new their shapes are."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

MEASURES = ("log area", "log length", "elongation", "solidity", "roundness")


def measures(mask: np.ndarray) -> dict[str, float]:
    """Of one instance (H, W bool), not empty: log of its area in px and of its longer side; elongation (shorter / longer
    side of the smallest rectangle around it), solidity (share of its convex hull), roundness (4 pi area / perimeter^2)."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = np.concatenate(contours)
    (_, sides, _), area = cv2.minAreaRect(outline), float(mask.sum())
    wide, high = (side + 1 for side in sides)  # pixels, not the distance of their middles
    hull = np.zeros_like(mask, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(outline), 1)
    perimeter = sum(cv2.arcLength(contour, True) for contour in contours) + 4
    return {
        "log area": float(np.log(area)),
        "log length": float(np.log(max(wide, high))),
        "elongation": min(wide, high) / max(wide, high),
        "solidity": area / float(hull.sum()),
        "roundness": 4 * np.pi * area / perimeter**2,
    }


def distances(made: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> dict[str, float]:
    """For each of MEASURES the Wasserstein distance of its two distributions, in standard deviations of the real one."""
    ours, theirs = (pd.DataFrame([measures(mask) for mask in masks]) for masks in (made, real))
    return {
        name: float(wasserstein_distance(ours[name], theirs[name]) / max(theirs[name].std(ddof=0), 1e-6))
        for name in MEASURES
    }


def novelty(made: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> float:
    """Median over shapes of 1 - IoU with the nearest known one; all of them (G, G) bool on one grid, see `on_grid`."""
    flat = np.stack([shape.ravel() for shape in known]).astype(np.float32)
    rows = []
    for shape in made:
        one = shape.ravel().astype(np.float32)
        shared = flat @ one
        rows.append(1 - float((shared / (flat.sum(axis=1) + one.sum() - shared)).max()))
    return float(np.median(rows))
