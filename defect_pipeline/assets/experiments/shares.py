"""The chain made again from a share of the annotated groups with a seed: what every experiment begins with.

A seed draws its own split, so that over seeds more parts are tested on than the test side of one split holds.
"""

from __future__ import annotations

import os
from dataclasses import astuple
from pathlib import Path

import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import INSPECTION, Build, Chain, content, data_root
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.splits import assign_splits
from defect_pipeline.lazy import pd
from defect_pipeline.store import Store, digest_of

SHARES = {"10%": 0.1, "40%": 0.4, "60%": 0.6, "80%": 0.8, "100%": 1.0}  # of the annotated train groups
SEEDS = (0, 1, 2)


def chain_of(build: Build, share: str, seed: int) -> Chain:
    """The stages that the build's stage makes, from the share of the train groups alone, in a store of its own; the first
    experiment that asks for it makes it."""
    store = Store(root=str(build.cache("experiments") / digest_of(share, seed)))
    known, dataset = build.read(inspection_images), build.dataset
    fractions = astuple(build.settings.splits)
    inside, root = digest_of(content(known), fractions, share, seed), known.contents["root"]
    if not Path(root).is_absolute():  # to the store around this one
        root = os.path.relpath(data_root(known), store.root)
    digest = digest_of(inside, root)
    if (made := store.find(INSPECTION, digest)) is not None:
        store.set_current(made)
    else:
        dataset = dataset.with_columns(split=assign_splits(dataset.images, None, fractions, seed))
        unused = _shows_defects(dataset) & ~dataset.images["group"].isin(chosen_groups(dataset, SHARES[share], seed))
        with store.create(INSPECTION, digest, parents={}) as draft:
            dataset.with_columns(split=dataset.images["split"].mask(unused, "unused")).save(draft.path)
            draft.contents |= {"root": root, "": inside}
    chain = build.chain(store, seed=seed)
    for one in build.stage.makes:
        chain.make(one)
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
