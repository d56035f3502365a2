"""Which images of a class to look at first when one of its checks fails, by what the artifacts already say of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.lazy import pd
from defect_pipeline.store import Artifact, Store

SHOWN = 6


@dataclass(frozen=True)
class Worst:
    """Images of a class, the worst first, each with the value it was chosen for."""

    by: str  # how they were chosen, a phrase
    images: tuple[tuple[Path, float], ...] = ()


def least_in_mask(report: Artifact, store: Store) -> Worst:
    """Of a `faithfulness_report`."""
    twins, _ = read_twins(report.path)
    return _worst("the least change under the mask against elsewhere", report, store, twins, "ratio")


def nearest_to_training(report: Artifact, store: Store) -> Worst:
    """The copies of a copy report of either system."""
    copies, _ = read_copies(report.path)
    by = "copies, the nearest to a train image in features (cosine distance) first"
    return _worst(by, report, store, copies[copies["copy"]], "feature_distance")


def rejected(accepted: Artifact, store: Store) -> Worst:
    """Of a `sadf_accepted`."""
    verdicts = read_verdicts(accepted.path)
    by = "rejected images, the least change under the mask (grey levels) first"
    return _worst(by, accepted, store, verdicts[verdicts["reason"] != ""], "inside")


def farthest_of_accepted(report: Artifact, store: Store) -> Worst:
    """Of a `fid_report`, which says nothing of single images; the copy report, which does, compares with train images."""
    accepted = next(name for name in report.parents if name.endswith("_accepted"))
    verdicts = read_verdicts(store.current(accepted, report.partition).path)
    by = "accepted images whose defect is farthest from every train one in features (cosine distance)"
    return _worst(by, report, store, verdicts[verdicts["reason"] == ""], "feature_distance", largest=True)


def farthest_of_generated(report: Artifact, store: Store) -> Worst:
    """Of a `stablesdg_fid_report`, in the same way."""
    copies, _ = read_copies(store.current("stablesdg_copy_report", report.partition).path)
    by = "images farthest from every train image in features (cosine distance)"
    return _worst(by, report, store, copies, "feature_distance", largest=True)


def _worst(
    by: str, judged: Artifact, store: Store, table: pd.DataFrame, column: str, *, largest: bool = False
) -> Worst:
    """The rows of a table with an `image` that lie at one end of a column, as files of what was judged."""
    painted = next(name for name in judged.parents if name.endswith("_images") and name != "inspection_images")
    source = store.find(painted, judged.parents[painted], judged.partition)
    if source is None:  # gone since
        return Worst(by)
    chosen = table.sort_values(column, ascending=not largest).head(SHOWN)
    images = [source.path / IMAGES / str(name) for name in chosen["image"]]
    return Worst(by, tuple(zip(images, chosen[column].astype(float), strict=True)))
