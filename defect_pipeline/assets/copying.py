"""Whether a class's synthetic defects are copies of the defects that the generator was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline.assets.masks import annotated
from defect_pipeline.assets.references import defect_window, extractor_of, real_crops, remembering, window_settings
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import painted_files, read_set
from defect_pipeline.evaluation.copying import Fingerprints, Nearest, Thresholds, calibrate, fingerprints, nearest
from defect_pipeline.imaging.crops import Crop
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.lazy import pd

if TYPE_CHECKING:
    from defect_pipeline.evaluation.features import Extractor

TABLE, REPORT = "copies.parquet", "report.json"
SHOWN = 12


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


@stage(
    parents=("inspection_images", "mask_bank", "sadf_images"),
    settings=window_settings,
    images=lambda pipeline: replace(annotated(pipeline), classes="shown"),
    group="evaluation",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def copy_report(build: Build) -> None:
    """How near each synthetic defect is to its nearest training defect; nearer than real ones to each other is a copy."""
    crops = real_crops(build, build.defect_class, ("train",))
    real = [defect_window(crop.image, crop.mask()) for crop in crops]
    painted = build.parent("sadf_images").path
    synthetic = [defect_window(*pair) for pair in zip(*read_set(painted, build.parent("mask_bank").path), strict=True)]
    report_copies(build, painted_files(painted), synthetic, crops, real)


@dataclass(frozen=True)
class Originals:
    """Train pictures that others may be copies of, and from where on one of their own parts would count as one."""

    extractor: Extractor
    references: Fingerprints
    thresholds: Thresholds
    among: Nearest  # of each the nearest of another part

    @classmethod
    def of(cls, build: Build, crops: Sequence[Crop], pictures: Sequence[np.ndarray]) -> Originals:
        """Of pictures (S, S, 3) that show train ``crops``."""
        extractor, images = extractor_of(build), build.dataset().images
        references = fingerprints(pictures, remembering(build, extractor), turned=True)
        groups = [str(images.at[crop.image_id, "group"]) for crop in crops]
        return cls(extractor, references, *calibrate(references, groups))

    def judge(self, pictures: Sequence[np.ndarray]) -> tuple[Nearest, np.ndarray]:
        """The nearest original to each picture, and whether it is a copy (n,) bool."""
        found = nearest(fingerprints(pictures, self.extractor), self.references)
        return found, self.thresholds.copies(found)


def report_copies(
    build: Build, names: list[str], synthetic: list[np.ndarray], crops: list[Crop], real: list[np.ndarray]
) -> None:
    """Hold synthetic pictures (S, S, 3) against those of train ``crops``, the ``real`` ones, and fill the artifact."""
    dataset, known = build.dataset(), Originals.of(build, crops, real)
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
    (build.path / REPORT).write_text(json.dumps(asdict(report)))
    build.metadata |= asdict(report)
    build.picture("nearest training defects", _pairs(synthetic, real, found.feature_distance, found.feature_index))


def read_copies(directory: Path) -> tuple[pd.DataFrame, Copying]:
    """What a `copy_report` artifact says: a row for each image, and of all together."""
    return pd.read_parquet(directory / TABLE), Copying(**json.loads((directory / REPORT).read_text()))


def _pairs(
    synthetic: Sequence[np.ndarray], real: Sequence[np.ndarray], distances: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """The synthetic windows that are nearest to a training window, each above it."""
    chosen = np.argsort(distances)[:SHOWN]
    pictures = [synthetic[i] for i in chosen] + [real[indices[i]] for i in chosen]
    captions = ["synthetic"] * len(chosen) + [f"at {distances[i]:.3f}" for i in chosen]
    return contact_sheet(pictures, captions, columns=len(chosen))
