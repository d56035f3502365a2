"""Whether a class's synthetic defects are copies of the defects that the generator was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masks import annotated
from defect_pipeline.assets.references import WINDOWS, extractor_of, real_crops, remembering
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import painted_files, read_set
from defect_pipeline.evaluation.copying import Originals
from defect_pipeline.imaging.crops import Crop, defect_window, groups_of
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.lazy import pd

TABLE = "copies.parquet"
PAIRS = 12  # of a sheet


@dataclass(frozen=True)
class Copying:
    """Of n windows around synthetic defects, or n synthetic images, against the m of train images."""

    copies: float  # share
    feature_threshold: float  # cosine distance; NaN where there are too few parts to calibrate
    hash_threshold: float  # bits of 64
    median_feature: float  # of the synthetic ones to their nearest training window
    median_feature_real: float  # of the training windows to the nearest of another part
    n: int
    m: int


def copy_report(images: Stage, bank: Stage, *, name: str, group: str) -> Stage:
    """The stage that looks for the nearest training defect of each synthetic one."""

    @stage(
        name=name,
        parents=(inspection_images, bank, images),
        settings=WINDOWS,
        images=lambda settings, seed: replace(annotated(settings, seed), classes="shown"),
        group=group,
        kinds={"torch"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """How near each synthetic defect is to its nearest training defect; nearer than real ones to each other is a copy."""
        crops = real_crops(build.dataset, build.defect_class, ("train",), build.settings.drivers, build.seed)
        real = [defect_window(crop.image, crop.mask()) for crop in crops]
        painted = build.read(images).path
        synthetic = [defect_window(*pair) for pair in zip(*read_set(painted, build.read(bank).path), strict=True)]
        report_copies(build, painted_files(painted), synthetic, crops, real)

    return make


def report_copies(
    build: Build, names: list[str], synthetic: list[np.ndarray], crops: list[Crop], real: list[np.ndarray]
) -> None:
    """Hold synthetic pictures (S, S, 3) against those of train ``crops``, the ``real`` ones, and fill the artifact."""
    dataset, extractor = build.dataset, extractor_of(build.settings)
    known = Originals.of(extractor, remembering(extractor, build.cache("features")), real, groups_of(dataset, crops))
    build.progress(1, 2)
    found, copies = known.judge(synthetic)
    build.progress(2, 2)
    table = pd.DataFrame(
        {
            "image": names, "copy": copies,
            "feature_distance": found.feature_distance, "hash_distance": found.hash_distance,
            "nearest": [str(dataset.images.at[crops[k].image_id, "path"]) for k in found.feature_index],
        }
    )  # fmt: skip
    report = Copying(
        float(table["copy"].mean()), known.thresholds.feature, known.thresholds.hash,
        float(np.median(found.feature_distance)), float(np.median(known.among.feature_distance)), len(synthetic), len(real),
    )  # fmt: skip
    table.to_parquet(build.path / TABLE)
    build.keep(report)
    build.metadata |= asdict(report)
    build.picture("nearest training defects", _pairs(synthetic, real, found.feature_distance, found.feature_index))


def read_copies(directory: Path) -> pd.DataFrame:
    """What a copy report says of each image; of all together it keeps a `Copying`."""
    return pd.read_parquet(directory / TABLE)


def _pairs(
    synthetic: Sequence[np.ndarray], real: Sequence[np.ndarray], distances: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """The synthetic windows that are nearest to a training window, each above it."""
    chosen = np.argsort(distances)[:PAIRS]
    pictures = [synthetic[i] for i in chosen] + [real[indices[i]] for i in chosen]
    captions = ["synthetic"] * len(chosen) + [f"at {distances[i]:.3f}" for i in chosen]
    return contact_sheet(pictures, captions, columns=len(chosen))
