"""What synthetic images are compared with: pretrained features of real crops of a class."""

from pathlib import Path

import numpy as np

from defect_pipeline.assets.stage import Build
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.features import Extractor, load_extractor
from defect_pipeline.imaging.crops import defect_crops

CROPS_PER_IMAGE = 3
HELD_OUT = ("val", "test")


def extractor_of(build: Build) -> Extractor:
    """The profile's feature extractor, on its device."""
    settings = build.settings
    weights = Path(settings.extractor_weights) if settings.extractor_weights else None
    return load_extractor(settings.extractor, weights, device=settings.device)


def real_features(build: Build, extractor: Extractor, defect_class: str, splits: tuple[str, ...]) -> np.ndarray:
    """Features (n, D) of real crops of a class. Raises PipelineError where there are too few to compare with."""
    dataset, drivers = build.dataset(), build.settings.drivers
    ids = [i for i in dataset.of_class(defect_class) if dataset.images.at[i, "split"] in splits]
    crops = defect_crops(
        dataset, ids, defect_class, drivers.size,
        per_image=CROPS_PER_IMAGE, zoom=drivers.zoom, seed=build.pipeline.seed,
    )  # fmt: skip
    real = [crop.image for crop in crops]
    if len(real) < 4:
        raise PipelineError(
            f"Class {defect_class!r} has {len(ids)} images in {' and '.join(splits)} of {dataset.root}, too few to "
            "compare with: add images of other parts, or take the class out."
        )
    return extractor.features(np.stack(real))
