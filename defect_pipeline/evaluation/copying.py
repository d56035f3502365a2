"""Is a synthetic image a copy of a training image: nearer to one than real images are to each other.

Nearness is measured twice, by the cosine distance of pretrained features and by a perceptual hash, under the eight
symmetries of the square. What counts as too near is read off the real images themselves: hardly any of them is as near
to one of another part (leave one part out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from defect_pipeline.evaluation.features import Extractor

BITS = 64  # of the perceptual hash
LEVEL = 0.01  # share of real images that the thresholds would call copies


@dataclass(frozen=True)
class Fingerprints:
    """Of n images, each in v views: as it is, or under the 8 symmetries, the first of which is the image as it is."""

    features: np.ndarray  # (n, v, D) float32 of unit length
    hashes: np.ndarray  # (n, v, BITS) bool


@dataclass(frozen=True)
class Nearest:
    """For each of n images the nearest of the references, in either measure."""

    feature_distance: np.ndarray  # (n,) cosine distance, 0 ... 2
    feature_index: np.ndarray  # (n,)
    hash_distance: np.ndarray  # (n,) bits that differ, 0 ... BITS
    hash_index: np.ndarray  # (n,)


@dataclass(frozen=True)
class Thresholds:
    """At most so far from a training image, in both measures, is a copy: alone, either errs more often. NaN where there
    are too few parts to tell, so that nothing is."""

    feature: float
    hash: float

    def copies(self, nearest: Nearest) -> np.ndarray:
        """(n,) bool."""
        return (nearest.feature_distance <= self.feature) & (nearest.hash_distance <= self.hash)


def symmetries(image: np.ndarray) -> list[np.ndarray]:
    """A square (S, S[, C]) turned by quarters, and the same mirrored: 8 images."""
    return [np.ascontiguousarray(np.rot90(side, k)) for side in (image, image[:, ::-1]) for k in range(4)]


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """(BITS,) bool: which of the 8x8 lowest frequencies of a (S, S, 3) uint8 image lie above their median (pHash)."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    return low > np.median(low[1:])  # without the mean, which says nothing of the picture


def fingerprints(images: Sequence[np.ndarray], extractor: Extractor, *, turned: bool = False) -> Fingerprints:
    """Of square (S, S, 3) uint8 images, each ``turned`` in all 8 ways or as it is."""
    views = [view for image in images for view in (symmetries(image) if turned else [image])]
    features = extractor.features(views).reshape(len(images), -1, extractor.dimension)
    hashes = np.stack([perceptual_hash(view) for view in views]).reshape(len(images), -1, BITS)
    return Fingerprints(features / np.linalg.norm(features, axis=2, keepdims=True), hashes)


def nearest(images: Fingerprints, references: Fingerprints, allowed: np.ndarray | None = None) -> Nearest:
    """The nearest reference to each image as it is, in whichever of its views; ``allowed`` (n, m) bool may forbid some.

    An image without an allowed reference is infinitely far.
    """
    similar = np.einsum("nd,mvd->nmv", images.features[:, 0], references.features, optimize=True).max(axis=2)
    ours, theirs = (signs.astype(np.float32) * 2 - 1 for signs in (images.hashes[:, 0], references.hashes))
    agreeing = np.einsum("nb,mvb->nmv", ours, theirs, optimize=True).max(axis=2)
    far, differing = 1 - similar, (BITS - agreeing) / 2  # (n, m)
    if allowed is not None:
        far, differing = (np.where(allowed, distances, np.inf) for distances in (far, differing))
    return Nearest(far.min(axis=1), far.argmin(axis=1), differing.min(axis=1), differing.argmin(axis=1))


def calibrate(real: Fingerprints, groups: Sequence[str]) -> tuple[Thresholds, Nearest]:
    """The thresholds that LEVEL of the real images would fall below, and how near each is to another part's."""
    parts = np.asarray(groups)
    among = nearest(real, real, parts[:, None] != parts[None, :])
    if not np.isfinite(among.feature_distance).all():  # a single part: nothing to compare with
        return Thresholds(float("nan"), float("nan")), among
    return Thresholds(
        float(np.quantile(among.feature_distance, LEVEL)), float(np.quantile(among.hash_distance, LEVEL))
    ), among


@dataclass(frozen=True)
class Originals:
    """Train pictures that others may be copies of, and from where on one of their own parts would count as one."""

    extractor: Extractor
    references: Fingerprints
    thresholds: Thresholds
    among: Nearest  # of each the nearest of another part

    @classmethod
    def of(
        cls, extractor: Extractor, known: Extractor, pictures: Sequence[np.ndarray], groups: Sequence[str]
    ) -> Originals:
        """Of pictures (S, S, 3) uint8 of the parts ``groups``; ``known`` is the extractor with a memory for them."""
        references = fingerprints(pictures, known, turned=True)
        return cls(extractor, references, *calibrate(references, groups))

    def judge(self, pictures: Sequence[np.ndarray]) -> tuple[Nearest, np.ndarray]:
        """The nearest original to each picture, and whether it is a copy (n,) bool."""
        found = nearest(fingerprints(pictures, self.extractor), self.references)
        return found, self.thresholds.copies(found)
