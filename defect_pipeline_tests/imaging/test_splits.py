import hashlib
import time

import pandas as pd
import pytest

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.splits import assign_splits, check_splits, manifest_digest, moved_images

FRACTIONS = (0.7, 0.1, 0.2)


def manifest(groups: dict[str, list[str]]) -> pd.DataFrame:
    """group -> the class of each of its images; paths and hashes follow from the group's name."""
    rows = [
        {"path": f"{group}-{number}.png", "defect_class": defect_class, "group": group}
        for group, classes in groups.items()
        for number, defect_class in enumerate(classes)
    ]
    images = pd.DataFrame(rows)
    return images.assign(sha256=[hashlib.sha256(path.encode()).hexdigest() for path in images["path"]])


def mixed_manifest(parts: int) -> pd.DataFrame:
    """Parts of one to three images: cracks, pits, or defect-free, and every fifth part has all three."""
    kinds = ["crack", "pit", "", ""]
    return manifest(
        {f"g{n}": ["crack", "pit", ""] if n % 5 == 0 else [kinds[n % 4]] * (1 + n % 3) for n in range(parts)}
    )


def assigned(
    images: pd.DataFrame,
    previous: pd.DataFrame | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
) -> pd.Series:
    return assign_splits(images, previous, fractions, seed)


def with_splits(images: pd.DataFrame, previous: pd.DataFrame | None = None, seed: int = 0) -> pd.DataFrame:
    return images.assign(split=assigned(images, previous, seed=seed))


def sides(images: pd.DataFrame, defect_class: str) -> dict[str, int]:
    """split -> number of groups that show the class."""
    rows = images[images["defect_class"] == defect_class]
    return rows.groupby("split")["group"].nunique().to_dict()


def test_no_group_stands_on_two_sides() -> None:
    images = with_splits(mixed_manifest(60))
    assert images.groupby("group")["split"].nunique().max() == 1
    assert set(images["split"]) == {"train", "val", "test"}
    assert check_splits(images) == []


def test_every_class_gets_its_fractions_of_groups() -> None:
    images = with_splits(mixed_manifest(200))
    for defect_class in ("crack", "pit", ""):
        found = sides(images, defect_class)
        n = sum(found.values())
        for split, fraction in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert found[split] == pytest.approx(fraction * n, abs=0.06 * n), (defect_class, found)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "test": 1, "val": 1}),
        (5, {"train": 3, "test": 1, "val": 1}),
        (10, {"train": 7, "test": 2, "val": 1}),
    ],
)
def test_a_class_with_few_groups_fills_train_then_test_then_val(parts: int, expected: dict[str, int]) -> None:
    rare = {f"rare{n}": ["fray", "fray"] for n in range(parts)}
    common = {f"common{n}": [""] for n in range(40)}
    assert sides(with_splits(manifest(rare | common)), "fray") == expected


@pytest.mark.parametrize("seed", range(20))
def test_every_class_reaches_train_when_parts_show_several_classes(seed: int) -> None:
    parts = {"a": ["crack", "pit"], "b": ["crack", "burn"], "c": ["pit", "burn"], "d": ["burn", "pit", "scratch"]}
    images = with_splits(manifest(parts), seed=seed)
    for defect_class in ("crack", "pit", "burn", "scratch"):
        assert "train" in sides(images, defect_class)


def test_rows_may_come_in_any_order_and_groups_under_any_name() -> None:
    images = mixed_manifest(50)
    shuffled = images.sample(frac=1, random_state=3)
    pd.testing.assert_series_equal(assigned(images), assigned(shuffled).sort_index())
    renamed = images.assign(group=images["group"].map(lambda name: name[::-1] + "x"))
    pd.testing.assert_series_equal(assigned(images), assigned(renamed))


def test_another_seed_draws_another_split() -> None:
    images = mixed_manifest(50)
    assert not assigned(images, seed=0).equals(assigned(images, seed=1))


def test_added_images_move_no_old_one_and_fill_what_lacks() -> None:
    everything = mixed_manifest(120)
    last = int(everything["group"].str[1:].astype(int).max())
    previous: pd.DataFrame | None = None
    for parts in (20, 21, 60, last + 1):
        images = everything[everything["group"].str[1:].astype(int) < parts]
        images = with_splits(images, previous=previous)
        if previous is not None:
            assert moved_images(images, previous).empty
            assert set(previous["path"]) < set(images["path"])
        previous = images
    assert previous is not None
    for defect_class in ("crack", "pit", ""):
        found = sides(previous, defect_class)
        assert found["train"] == pytest.approx(0.7 * sum(found.values()), abs=3)


def test_a_new_image_of_a_placed_part_joins_it() -> None:
    before = with_splits(mixed_manifest(30))
    images = pd.concat([before, manifest({"new": [""]}).assign(path="later.png")], ignore_index=True)
    for group, rows in before.groupby("group"):
        images.loc[images.index[-1], "group"] = group
        assert assigned(images, previous=before).iloc[-1] == rows["split"].iloc[0]


def test_a_link_between_two_sides_moves_the_smaller_one_and_says_so() -> None:
    parts = manifest({"big": ["pit"] * 3, "small": ["pit"], "other": ["pit"]})
    before = parts.assign(split=parts["group"].map({"big": "test", "small": "train", "other": "train"}))
    joined = parts.assign(group=parts["group"].replace({"small": "big"}))
    after = with_splits(joined, previous=before)
    assert set(after.loc[after["group"] == "big", "split"]) == {"test"}
    moved = moved_images(after, before)
    assert moved.to_dict("records") == [{"path": "small-0.png", "before": "train", "after": "test"}]


def test_check_names_what_makes_a_split_unusable() -> None:
    images = manifest(
        {"a": ["pit", "pit"], "b": ["pit"], "c": [""], "d": [""], "e": ["burn"], "f": ["fray"], "g": ["fray"]}
    )
    split = {"a": "train", "b": "test", "c": "train", "d": "test", "e": "train", "f": "test", "g": "test"}
    problems = check_splits(images.assign(split=images["group"].map(split)))
    assert len(problems) == 2
    assert "'burn' has one image only (e-0.png)" in problems[0]
    assert "'fray' is in test but not in train" in problems[1]

    leaking = images[images["defect_class"].isin(["pit", ""])].assign(split="train")
    leaking.loc[leaking["path"] == "a-1.png", "split"] = "test"
    assert ["two sides" in problem for problem in check_splits(leaking)] == [True]


def test_a_side_without_a_share_stays_empty_and_wrong_fractions_are_refused() -> None:
    images = mixed_manifest(30)
    assert set(assigned(images, fractions=(0.8, 0.0, 0.2))) == {"train", "test"}
    for fractions in ((0.7, 0.1, 0.1), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)):
        with pytest.raises(PipelineError, match="add up to 1"):
            assigned(images, fractions=fractions)


def test_digest_depends_on_every_column_and_not_on_the_order() -> None:
    images = with_splits(mixed_manifest(20))
    digest = manifest_digest(images)
    assert manifest_digest(images.sample(frac=1, random_state=1).reset_index(drop=True)) == digest
    for column in ("path", "sha256", "defect_class", "group", "split"):
        changed = images.copy()
        changed.loc[3, column] = "changed"
        assert manifest_digest(changed) != digest


def test_many_parts_take_no_longer_each() -> None:
    images = mixed_manifest(30_000)  # half a second; half a minute where each part asks all others of its class
    began = time.process_time()
    assert check_splits(with_splits(images)) == []
    assert time.process_time() - began < 10
