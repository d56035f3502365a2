"""A subset holds what it says, numbered anew, and nothing that lies outside leaves a trace in it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from defect_pipeline.imaging.dataset import INSTANCE_COLUMNS, OPENED_COLUMNS, REJECTED_COLUMNS, Dataset
from defect_pipeline.imaging.masks import bbox, encode
from defect_pipeline.imaging.splits import manifest_digest
from defect_pipeline.imaging.subsets import Subset

IMAGES = (  # name, what it shows, its side
    ("a", ("crack",), "train"), ("b", ("crack", "pit"), "train"), ("c", (), "train"),
    ("d", ("pit",), "test"), ("e", ("stain",), "val"), ("f", (), "unused"),
)  # fmt: skip


def dataset(*images: tuple[str, tuple[str, ...], str]) -> Dataset:
    """Of 8 x 8 px, a defect of 2 x 2 px for each class shown, as it would be ingested."""
    mask = np.zeros((8, 8), bool)
    mask[2:4, 3:5] = True
    shown = [(number, name) for number, (_, names, _) in enumerate(images, start=1) for name in names]
    rows = [(number, name, encode(mask), 4, bbox(mask), "mask", 0) for number, name in shown]
    table = {
        "path": [f"{name}.png" for name, _, _ in images], "sha256": [name * 64 for name, _, _ in images],
        "width": 8, "height": 8, "defect_class": [min(names, default="") for _, names, _ in images],
        "group": [name for name, _, _ in images], "split": [split for _, _, split in images],
    }  # fmt: skip
    return Dataset(
        root=Path("/data"),
        images=pd.DataFrame(table, index=pd.RangeIndex(1, len(images) + 1, name="image_id")),
        instances=pd.DataFrame(rows, columns=list(INSTANCE_COLUMNS)),
        categories=tuple(sorted({name for _, names, _ in images for name in names})),
        rejected=pd.DataFrame([("x.png", "is empty", "")], columns=list(REJECTED_COLUMNS)),
        opened=pd.DataFrame([("a.png", *[0] * (len(OPENED_COLUMNS) - 1))], columns=list(OPENED_COLUMNS)),
    )


def seen(subset: Dataset) -> dict[str, list[str]]:
    """What each image of a subset shows, by its path."""
    return {subset.images.at[i, "path"]: [name for name, _ in subset.masks(i)] for i in subset.images.index}


def digest(subset: Dataset) -> tuple[str, str]:
    return subset.digest, manifest_digest(subset.images)


@pytest.mark.parametrize(
    ("subset", "paths", "classes"),
    [
        (Subset(), "abcde", ("crack", "pit", "stain")),
        (Subset(("train",)), "abc", ("crack", "pit", "stain")),
        (Subset(("train",), "defects", "shown"), "ab", ("crack", "pit")),
        (Subset(("train",), "no defect", "shown"), "c", ()),
        (Subset(("train", "test"), "own class", "shown"), "bd", ("crack", "pit")),
        (Subset(("test",), "own class", "ranked"), "d", ("crack", "pit")),
        (Subset(("test",), "own class", "shown"), "d", ("pit",)),
        (Subset(splits=()), "", ("crack", "pit", "stain")),
    ],
)
def test_a_subset_holds_what_it_says(subset: Subset, paths: str, classes: tuple[str, ...]) -> None:
    whole = dataset(*IMAGES)
    found = subset.of(whole, "pit")
    assert seen(found) == {path: names for path, names in seen(whole).items() if path[0] in paths}
    assert found.categories == classes and found.images.index.tolist() == list(range(1, len(paths) + 1))
    assert found.rejected.empty and found.opened.empty and found.root == whole.root


def test_what_lies_outside_leaves_no_trace() -> None:
    subset = Subset(("train",), "own class", "ranked")
    before = subset.of(dataset(*IMAGES), "pit")
    for others in (
        [("0", ("crack",), "train"), *IMAGES],  # joins in front: all images are numbered anew
        [*IMAGES, ("g", ("tear",), "train")],  # of a class behind
        [one for one in IMAGES if one[0] != "a"],
        [(name, () if name == "e" else names, side) for name, names, side in IMAGES],
        [(name, names, "val" if name == "d" else side) for name, names, side in IMAGES],
    ):
        after = subset.of(dataset(*others), "pit")
        assert digest(after) == digest(before)
        pd.testing.assert_frame_equal(after.images, before.images)
        pd.testing.assert_frame_equal(after.instances, before.instances)
        assert after.categories == before.categories


def test_what_lies_inside_does() -> None:
    subset = Subset(("train",), "own class", "ranked")
    before = digest(subset.of(dataset(*IMAGES), "pit"))
    for others in (
        [*IMAGES, ("g", ("pit",), "train")],
        [*IMAGES, ("g", ("ant",), "test")],  # a class in front recolours
        [one for one in IMAGES if one[0] != "b"],
        [(name, ("pit",) if name == "b" else names, side) for name, names, side in IMAGES],
        [(name, names, "test" if name == "b" else side) for name, names, side in IMAGES],
    ):
        assert digest(subset.of(dataset(*others), "pit")) != before
    whole = dataset(*IMAGES)
    other = np.zeros((8, 8), bool)
    other[5:7, 3:5] = True
    redrawn = whole.instances.assign(counts=[encode(other), *whole.instances["counts"][1:]])
    assert digest(subset.of(replace(whole, instances=redrawn), "pit")) == before  # the first is a crack in image a
    redrawn = whole.instances.assign(counts=whole.instances["counts"].where(whole.instances.index != 1, encode(other)))
    assert digest(subset.of(replace(whole, instances=redrawn), "pit")) != before  # a crack, but in an image with a pit


def test_of_many_a_part_draws_some_and_few_that_join_are_among_them() -> None:
    many = [(f"m{number}", (), "train") for number in range(10, 50)]
    subset = Subset(("train",), "no defect", "shown", most=8, seed=1)
    before = subset.of(dataset(*many))
    assert len(before.images) == 8 and before.images["path"].is_monotonic_increasing
    places = []
    for number in range(60):
        after = subset.of(dataset(*many, (f"new{number}", (), "train")))
        gone, come = (
            set(one.images["path"]) - set(other.images["path"]) for one, other in ((before, after), (after, before))
        )
        assert come <= {f"new{number}.png"} and len(gone) == len(come) and len(after.images) == 8
        assert bool(come) or digest(after) == digest(before)
        places.append(len(come))
    assert 1 <= sum(places) <= 30  # 12 are to be expected
    assert digest(replace(subset, seed=2).of(dataset(*many))) != digest(before)
    assert len(replace(subset, most=41).of(dataset(*many)).images) == 40
