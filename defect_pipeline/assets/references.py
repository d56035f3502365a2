"""What synthetic images are compared with: real crops of a class, windows around their defects, pretrained features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import evaluation
from defect_pipeline.assets.stage import Build, Pipeline
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.crops import Crop, defect_crops
from defect_pipeline.imaging.geometry import crop_resize, square_crop

if TYPE_CHECKING:
    from defect_pipeline.evaluation.features import Extractor

CROPS_PER_IMAGE = 3
HELD_OUT = ("val", "test")
WINDOW = 0.5  # of the image's side: the smallest window around a defect


def window_settings(pipeline: Pipeline) -> tuple:
    """What windows around real defects and their features depend on."""
    settings = pipeline.settings
    return settings.drivers, settings.extractor, settings.extractor_weights


def extractor_of(build: Build) -> Extractor:
    """The profile's feature extractor, on its device."""
    settings = build.settings
    weights = Path(settings.extractor_weights) if settings.extractor_weights else None
    return evaluation.features.load_extractor(settings.extractor, weights, device=settings.device)


def remembering(build: Build, extractor: Extractor) -> Extractor:
    """The extractor with a memory: real images come again with every regeneration, and in several reports."""
    return replace(extractor, memory=build.store.cache("features"))


def real_crops(build: Build, defect_class: str, splits: tuple[str, ...]) -> list[Crop]:
    """Crops of the class's images in these splits, CROPS_PER_IMAGE each."""
    dataset, drivers = build.dataset(), build.settings.drivers
    ids = [i for i in dataset.of_class(defect_class) if dataset.images.at[i, "split"] in splits]
    crops = defect_crops(
        dataset, ids, defect_class, drivers.size,
        per_image=CROPS_PER_IMAGE, zoom=drivers.zoom, seed=build.pipeline.seed,
    )  # fmt: skip
    return list(crops)


def real_features(build: Build, extractor: Extractor, defect_class: str, splits: tuple[str, ...]) -> np.ndarray:
    """Features (n, D) of real crops of a class. Raises PipelineError where there are too few to compare with."""
    real = [crop.image for crop in real_crops(build, defect_class, splits)]
    if len(real) < 2:
        raise PipelineError(
            f"Class {defect_class!r} has {len(real)} crops in {' and '.join(splits)} of {build.dataset().root}, too few "
            "to compare with: add images of other parts, or take the class out."
        )
    return remembering(build, extractor).features(np.stack(real))


def defect_window(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square around the defects of a (S, S, 3) image, at its size: what lies farther says nothing of the defect."""
    return crop_resize(image, square_crop(image.shape, mask, zoom=1 / WINDOW), image.shape[0])
