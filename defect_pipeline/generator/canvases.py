"""What images are painted from: drivers, backgrounds and masks, how much of a background stays, whose noise is whose."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from defect_pipeline.diffusion.backbone import Backbone

MARGIN = 2  # px: a defect may reach a little past its outline


@dataclass(frozen=True)
class Canvases:
    """What n images are painted from: their class, drivers and backgrounds (n, S, S, 3) uint8, masks (n, S, S) bool."""

    defect_class: str
    drivers: np.ndarray
    backgrounds: np.ndarray
    masks: np.ndarray

    def __getitem__(self, chosen: slice) -> Canvases:
        return Canvases(self.defect_class, self.drivers[chosen], self.backgrounds[chosen], self.masks[chosen])


def strengths(backbone: Backbone, masks: np.ndarray, strength: float, fade: float) -> Tensor:
    """`strength_map` of every mask of (n, S, S) bool, (n, h, w) at latent size."""
    return backbone.at_latent_size(np.stack([strength_map(mask, strength, fade) for mask in masks]))


def strength_map(mask: np.ndarray, strength: float, fade: float) -> np.ndarray:
    """(H, W) float32: 1 on the mask and MARGIN around it, falling to ``strength`` over the next ``fade`` px.

    The farther from a defect, the less of the background is painted anew; a sudden step would show as a seam.
    """
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - (1 - strength) * (distance - MARGIN) / max(fade, 1e-6), strength, 1).astype(np.float32)


def image_seed(seed: int, defect_class: str, name: str) -> int:
    """An image keeps its noise whatever else is asked for."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{defect_class}/{name}".encode()).digest()[:7])


def image_seeds(seed: int, defect_class: str, name: str, n: int) -> list[int]:
    """Those of n images "name/0", "name/1" and so on."""
    return [image_seed(seed, defect_class, f"{name}/{k}") for k in range(n)]


def in_turn(images: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """n images: all of them over and over."""
    return [images[k % len(images)] for k in range(n)]
