"""The cheap baseline that every generator must beat: real defects cut out and blended into defect-free images."""

from collections.abc import Sequence

import cv2
import numpy as np

from defect_pipeline.imaging.masks import dilated

MARGIN = 2  # px around the mask that come along: annotations end before a defect's halo does
FEATHER = 1.5  # px, sigma of the seam
RING = 6  # px around the margin in which the two surfaces are brought to one colour


def copy_pasted(
    images: np.ndarray, masks: np.ndarray, backgrounds: Sequence[np.ndarray], seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Defects of images (n, S, S, 3) uint8 with masks (n, S, S) bool, in an order drawn from ``seed``, blended into the
    backgrounds where they stood: as many images (S, S, 3) uint8 as backgrounds, and their masks (S, S) bool."""
    order = np.random.default_rng(seed).permutation(len(images))
    chosen = [order[k % len(order)] for k in range(len(backgrounds))]
    pasted = [paste_defect(background, images[k], masks[k]) for background, k in zip(backgrounds, chosen, strict=True)]
    return pasted, [masks[k] for k in chosen]


def paste_defect(background: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The (H, W, 3) uint8 background with what `mask` (H, W bool) covers of `source` (H, W, 3 uint8), at its place.

    The source is shifted in colour by what the two surfaces differ around the mask, and the seam is feathered.
    """
    wide = dilated(mask, MARGIN)
    ring = dilated(wide, RING) & ~wide
    shift = (background[ring].mean(axis=0) - source[ring].mean(axis=0)) if ring.any() else np.zeros(3)
    alpha = cv2.GaussianBlur(wide.astype(np.float32), (0, 0), FEATHER)[..., None]
    blended = alpha * (source + shift) + (1 - alpha) * background
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)
