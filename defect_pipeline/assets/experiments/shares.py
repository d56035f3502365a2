"""The chain made again from a share of the annotated groups with a seed: what every experiment begins with.

A seed draws its own split, so that over seeds more parts are tested on than the test side of one split holds.
"""

from __future__ import annotations

import os
from dataclasses import astuple
from pathlib import Path

import numpy as np

from defect_pipeline.assets.stage import STAGES, Build, Pipeline, content, data_root, materialize, open_dataset
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.splits import assign_splits
from defect_pipeline.lazy import pd
from defect_pipeline.store import Artifact, Store, digest_of

SHARES = {"10%": 0.1, "40%": 0.4, "60%": 0.6, "80%": 0.8, "100%": 1.0}  # of the annotated train groups
SEEDS = (0, 1, 2)
CHAIN = (
    "defect_free_pool", "mask_bank", "topological_drivers", "concept_weights", "hypernetwork_weights", "sadf_images",
    "faithfulness_report", "copy_report", "sadf_accepted", "fid_report", "sadf_coco",
)  # fmt: skip
SECOND = ("token_embedding", "lora_weights", "strength_and_guidance", "stablesdg_images")  # the second system's


class Chain:
    """A store and the pipeline that fills it, on behalf of a build."""

    def __init__(self, build: Build, store: Store, pipeline: Pipeline):
        self.build, self.store, self.pipeline = build, store, pipeline

    def make(self, name: str) -> dict[str | None, Artifact]:
        """The artifacts of a stage, one for each defect class (or for None), made where they are not there yet."""
        partitions = self.build.classes() if STAGES[name].partitioned else (None,)
        return {k: materialize(STAGES[name], self.build.context, self.store, self.pipeline, k)[0] for k in partitions}

    @property
    def dataset(self) -> Dataset:
        """The inspection images, of whose train side no other defects are left than the share's."""
        return open_dataset(self.store.current("inspection_images"))


def chain_of(build: Build, share: str, seed: int, stages: tuple[str, ...] = CHAIN) -> Chain:
    """A chain of ``stages``, from the share of the train groups alone, in a store of its own; the first experiment that
    asks for it makes it."""
    store = Store(root=str(build.store.cache("experiments") / digest_of(share, seed)))
    known, dataset = build.parent("inspection_images"), build.dataset()
    fractions = astuple(build.settings.splits)
    digest, root = digest_of(content(known), fractions, share, seed), known.metadata["root"]
    if not Path(root).is_absolute():  # to the store around this one
        root = os.path.relpath(data_root(known), store.root)
    if (made := store.find("inspection_images", name := digest_of(digest, root))) is not None:
        store.set_current(made)
    else:
        dataset = dataset.with_columns(split=assign_splits(dataset.images, None, fractions, seed))
        unused = _shows_defects(dataset) & ~dataset.images["group"].isin(chosen_groups(dataset, SHARES[share], seed))
        with store.create("inspection_images", name, parents={}) as draft:
            dataset.with_columns(split=dataset.images["split"].mask(unused, "unused")).save(draft.path)
            draft.metadata |= {"root": root, "content": digest}
    chain = Chain(build, store, build.pipeline.model_copy(update={"seed": seed}))
    for name in stages:
        chain.make(name)
    return chain


def train_groups(dataset: Dataset) -> list[str]:
    """The groups of the train side that show a defect, sorted."""
    return sorted(dataset.images.loc[_shows_defects(dataset), "group"].unique())


def chosen_groups(dataset: Dataset, share: float, seed: int) -> set[str]:
    """A random share of the train groups that show a defect, and at least one of every class."""
    order = np.random.default_rng(seed).permutation(train_groups(dataset)).tolist()
    chosen = order[: max(1, round(share * len(order)))]
    train = dataset.images[_shows_defects(dataset)]
    for category in dataset.categories:
        having = set(train.loc[[i for i in dataset.of_class(category) if i in train.index], "group"])
        if having and not having & set(chosen):
            chosen.append(next(group for group in order if group in having))
    return set(chosen)


def _shows_defects(dataset: Dataset) -> pd.Series:
    """Which images are of the train side and show a defect."""
    return (dataset.images["split"] == "train") & (dataset.images["defect_class"] != "")
