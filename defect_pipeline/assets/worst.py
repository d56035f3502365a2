"""Which images of a class to look at first when one of its checks fails, by what the artifacts already say of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.stage import Stage
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.lazy import pd
from defect_pipeline.store import Artifact, Store

MOST = 6  # images


@dataclass(frozen=True)
class Worst:
    """Images of a class, the worst first, each with the value it was chosen for."""

    by: str  # how they were chosen, a phrase
    images: tuple[tuple[Path, float], ...] = ()


WorstOf = Callable[[Artifact, Store], Worst]


def least_in_mask(images: Stage) -> WorstOf:
    """Of a report of twins of ``images``."""
    by = "the least change under the mask against elsewhere"
    return lambda report, store: _worst(by, images, report, store, read_twins(report.path), "ratio")


def nearest_to_training(images: Stage) -> WorstOf:
    """The copies of a copy report of ``images``."""

    def worst(report: Artifact, store: Store) -> Worst:
        copies = read_copies(report.path)
        by = "copies, the nearest to a train image in features (cosine distance) first"
        return _worst(by, images, report, store, copies[copies["copy"]], "feature_distance")

    return worst


def rejected(images: Stage) -> WorstOf:
    """Of the filter's verdicts on ``images``."""

    def worst(accepted: Artifact, store: Store) -> Worst:
        verdicts = read_verdicts(accepted.path)
        by = "rejected images, the least change under the mask (grey levels) first"
        return _worst(by, images, accepted, store, verdicts[verdicts["reason"] != ""], "inside")

    return worst


def farthest_of_accepted(images: Stage, accepted: Stage) -> WorstOf:
    """Of a report of KID and FID, which says nothing of single images; the copy report, which does, compares with train
    images."""

    def worst(report: Artifact, store: Store) -> Worst:
        verdicts = read_verdicts(store.current(accepted.name, report.partition).path)
        by = "accepted images whose defect is farthest from every train one in features (cosine distance)"
        kept = verdicts[verdicts["reason"] == ""]
        return _worst(by, images, report, store, kept, "feature_distance", largest=True)

    return worst


def farthest_of_generated(images: Stage, copies: Stage) -> WorstOf:
    """The same of images without masks."""

    def worst(report: Artifact, store: Store) -> Worst:
        table = read_copies(store.current(copies.name, report.partition).path)
        by = "images farthest from every train image in features (cosine distance)"
        return _worst(by, images, report, store, table, "feature_distance", largest=True)

    return worst


def _worst(
    by: str, images: Stage, judged: Artifact, store: Store, table: pd.DataFrame, column: str, *, largest: bool = False
) -> Worst:
    """The rows of a table with an `image` that lie at one end of a column, as files of what was judged."""
    source = store.find(images.name, judged.parents[images.name], judged.partition)
    if source is None:  # gone since
        return Worst(by)
    chosen = table.sort_values(column, ascending=not largest).head(MOST)
    files = [source.path / IMAGES / str(name) for name in chosen["image"]]
    return Worst(by, tuple(zip(files, chosen[column].astype(float), strict=True)))
