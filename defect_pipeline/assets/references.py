"""What synthetic images are compared with: real crops of a class, windows around their defects, pretrained features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import evaluation
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.crops import Crop, class_crops
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.profiles import Drivers, Profile

if TYPE_CHECKING:
    from defect_pipeline.evaluation.features import Extractor

CROPS_PER_IMAGE = 3
HELD_OUT = ("val", "test")
WINDOWS = ("drivers", "extractor", "extractor_weights")  # settings of windows around real defects and their features


def extractor_of(profile: Profile) -> Extractor:
    """The profile's feature extractor, on its device."""
    weights = Path(profile.extractor_weights) if profile.extractor_weights else None
    return evaluation.features.load_extractor(profile.extractor, weights, device=profile.device)


def remembering(extractor: Extractor, memory: Path) -> Extractor:
    """The extractor with a memory: real images come again with every regeneration, and in several reports."""
    return replace(extractor, memory=memory)


def real_crops(dataset: Dataset, defect_class: str, splits: Sequence[str], drivers: Drivers, seed: int) -> list[Crop]:
    """Crops of the class's images in these splits, CROPS_PER_IMAGE each."""
    return class_crops(
        dataset, defect_class, splits, drivers.size, per_image=CROPS_PER_IMAGE, zoom=drivers.zoom, seed=seed
    )


def real_features(
    extractor: Extractor, dataset: Dataset, defect_class: str, splits: Sequence[str], drivers: Drivers, seed: int
) -> np.ndarray:
    """Features (n, D) of real crops of a class. Raises PipelineError where there are too few to compare with."""
    real = [crop.image for crop in real_crops(dataset, defect_class, splits, drivers, seed)]
    if len(real) < 2:
        raise PipelineError(
            f"Class {defect_class!r} has {len(real)} crops in {' and '.join(splits)} of {dataset.root}, too few to compare "
            "with: add images of other parts, or take the class out."
        )
    return extractor.features(np.stack(real))
