"""Subsets of a data set: what a reader declares, is given, and depends on, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.splits import SPLITS
from defect_pipeline.lazy import pd


@dataclass(frozen=True)
class Subset:
    """The images of some sides of the split that show something in particular.

    `splits`   the sides; none of them: no image at all, the names of the classes only.
    `shows`    "own class" is the one that the reader is for; an image that shows others as well keeps them.
    `classes`  which names of defect classes come along, in their order: "all"; "ranked", up to the last one shown, which
               is what colours depend on, so that a class joining behind changes nothing; or "shown".
    `most`     of so many images at most, drawn by `seed` and their content: among many, one that joins rarely takes
               another's place. None: all of them.
    """

    splits: tuple[str, ...] = SPLITS
    shows: Literal["anything", "defects", "own class", "no defect"] = "anything"
    classes: Literal["all", "ranked", "shown"] = "all"
    most: int | None = None
    seed: int = 0

    def of(self, dataset: Dataset, own: str | None = None) -> Dataset:
        """A data set of this subset alone, its images numbered anew: what lies outside leaves no trace in it.

        ``own`` is the reader's class. `rejected` and `opened` are empty.
        """
        images, instances = dataset.images, dataset.instances
        chosen = self._drawn(images[images["split"].isin(self.splits) & images.index.isin(self._showing(dataset, own))])
        numbers = {image_id: number for number, image_id in enumerate(chosen.index, start=1)}
        kept = instances[instances["image_id"].isin(numbers)]
        return replace(
            dataset,
            images=chosen.set_axis(pd.RangeIndex(1, len(chosen) + 1, name="image_id")),
            instances=kept.assign(image_id=kept["image_id"].map(numbers)).reset_index(drop=True),
            categories=self._categories(dataset.categories, set(kept["category"])),
            rejected=dataset.rejected[:0],
            opened=dataset.opened[:0],
        )

    def _showing(self, dataset: Dataset, own: str | None) -> pd.Index:
        """Ids of the images, of whatever side."""
        images = dataset.images
        if self.shows == "own class":
            return pd.Index(dataset.of_class(own or ""))
        if self.shows == "anything":
            return images.index
        return images.index[(images["defect_class"] == "") == (self.shows == "no defect")]

    def _drawn(self, images: pd.DataFrame) -> pd.DataFrame:
        """`most` of the images, in their order."""
        if self.most is None or len(images) <= self.most:
            return images
        lots = images["sha256"].map(lambda sha256: hashlib.sha256(f"{self.seed}:{sha256}".encode()).hexdigest())
        return images.loc[lots.sort_values().index[: self.most].sort_values()]

    def _categories(self, names: tuple[str, ...], shown: set[str]) -> tuple[str, ...]:
        if self.classes == "all":
            return names
        if self.classes == "shown":
            return tuple(name for name in names if name in shown)
        return names[: max((names.index(name) + 1 for name in shown), default=0)]
