"""Whether a class's synthetic defects are copies of the defects that the generator was trained on."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from defect_pipeline.assets.references import defect_window, extractor_of, real_crops, remembering, window_settings
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import painted_files, read_set
from defect_pipeline.evaluation.copying import calibrate, fingerprints, nearest
from defect_pipeline.imaging.crops import Crop
from defect_pipeline.imaging.sheets import contact_sheet

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


def report_copies(
    build: Build, names: list[str], synthetic: list[np.ndarray], crops: list[Crop], real: list[np.ndarray]
) -> None:
    """Hold synthetic pictures (S, S, 3) against those of train ``crops``, the ``real`` ones, and fill the artifact."""
    dataset, extractor = build.dataset(), extractor_of(build)
    references = fingerprints(real, remembering(build, extractor), turned=True)
    build.progress(1, 2)
    thresholds, among = calibrate(references, [str(dataset.images.at[crop.image_id, "group"]) for crop in crops])
    found = nearest(fingerprints(synthetic, extractor), references)
    build.progress(2, 2)
    table = pd.DataFrame(
        {
            "image": names, "copy": thresholds.copies(found),
            "feature_distance": found.feature_distance, "hash_distance": found.hash_distance,
            "nearest": [str(dataset.images.at[crops[k].image_id, "path"]) for k in found.feature_index],
        }
    )  # fmt: skip
    report = Copying(
        float(table["copy"].mean()), thresholds.feature, thresholds.hash, float(np.median(found.feature_distance)),
        float(np.median(among.feature_distance)), len(synthetic), len(real),
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
