"""Train, val and test by group: no part on two sides, each class on every side it can fill, nothing moves later."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping

from defect_pipeline.errors import PipelineError
from defect_pipeline.lazy import pd

SPLITS = ("train", "val", "test")
_FILL_ORDER = ("train", "test", "val")  # which side a class with few groups gets first


def assign_splits(
    images: pd.DataFrame,
    previous: pd.DataFrame | None,
    fractions: tuple[float, float, float],
    seed: int,
) -> pd.Series:
    """The split ("train", "val" or "test") of each row of `images` (columns sha256, defect_class, group), on its index.

    Classes are handled from the rarest on (counted in groups; defect-free images are a class too). The first group of a
    class goes to train, the second to test, the third to val, each further one where the class lags most behind its
    `fractions` (shares of groups for train, val and test; a side with share 0 stays empty). The outcome depends on seed
    and content, not on the order of the rows or on how groups are named.

    An image that `previous` (columns sha256, split) has placed stays where it is and takes its group along; new groups
    fill up what lacks. Only when a new image proves two placed groups of different sides to be one part does the one
    with fewer placed images move (train wins a draw), since staying would be a leak; `moved_images` lists these.

    Raises PipelineError when the fractions are not three shares that add up to 1, or train has none.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1) or fractions[0] == 0:
        raise PipelineError(f"Split fractions {fractions} must be three shares, the first above 0, that add up to 1.")
    share = dict(zip(SPLITS, fractions, strict=True))
    classes: dict[str, set[str]] = defaultdict(set)
    first: dict[str, str] = {}
    for group, name, sha256 in zip(
        *(images[column].tolist() for column in ("group", "defect_class", "sha256")), strict=True
    ):
        classes[group].add(name)
        first[group] = min(sha256, first.get(group, sha256))
    order = sorted(classes, key=lambda group: hashlib.sha256(f"{seed}:{first[group]}".encode()).hexdigest())
    members = {name: [g for g in order if name in classes[g]] for name in images["defect_class"].unique()}
    placed = {} if previous is None else _placed(images, previous)
    reached = {name: Counter(placed[g] for g in groups if g in placed) for name, groups in members.items()}
    for name, groups in sorted(members.items(), key=lambda item: (len(item[1]), item[0])):
        for group in groups:
            if group not in placed:
                only_hope = any(len(members[k]) == 1 + reached[k]["val"] + reached[k]["test"] for k in classes[group])
                placed[group] = "train" if only_hope else _neediest_side(len(groups), reached[name], share)
                for k in classes[group]:
                    reached[k][placed[group]] += 1
    return images["group"].map(placed).rename("split")


def moved_images(images: pd.DataFrame, previous: pd.DataFrame) -> pd.DataFrame:
    """Images (columns path, sha256, split) that stood elsewhere in `previous`: path, before, after. Empty as a rule."""
    before = images["sha256"].map(_splits_by_hash(previous))
    rows = before.notna() & (before != images["split"])
    columns = {"path": images["path"], "before": before, "after": images["split"]}
    return pd.DataFrame(columns)[rows].reset_index(drop=True)


def check_splits(images: pd.DataFrame) -> list[str]:
    """What makes a split (columns path, sha256, defect_class, group, split) unusable, a sentence with its remedy each.

    A group on two sides, a class of a single image, a class without a train image. Empty when all is well.
    """
    problems = []
    sides = images.groupby("group")["split"].nunique()
    for group in sides.index[sides > 1]:
        members = images[images["group"] == group]
        paths = ", ".join(sorted(members["path"])[:3])
        found = " and ".join(sorted(set(members["split"])))
        problems.append(
            f"Group {group} ({paths}, ...) stands on {found}: one part on two sides is a leak; "
            "let assign_splits place it again."
        )
    for defect_class, rows in images.groupby("defect_class"):
        name = f"Class {defect_class!r}" if defect_class else "The defect-free class"
        if rows["sha256"].nunique() == 1:
            problems.append(
                f"{name} has one image only ({rows['path'].iloc[0]}): training and testing need two parts at least; "
                "add images of other parts, or take the class out."
            )
        elif "train" not in set(rows["split"]):
            problems.append(
                f"{name} is in {' and '.join(sorted(set(rows['split'])))} but not in train: nothing can learn it; "
                "add images of other parts with it, or start from a new store so that the split is drawn anew."
            )
    return problems


def manifest_digest(images: pd.DataFrame) -> str:
    """sha256 (hex) over path, sha256, defect_class, group and split of every image, in the order of the paths."""
    columns = ["path", "sha256", "defect_class", "group", "split"]
    rows = sorted(images[columns].astype(str).itertuples(index=False, name=None))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _splits_by_hash(previous: pd.DataFrame) -> pd.Series:
    """sha256 -> split; a file that lies twice in the folder is one image."""
    return previous.drop_duplicates("sha256").set_index("sha256")["split"]


def _placed(images: pd.DataFrame, previous: pd.DataFrame) -> dict[Hashable, str]:
    """group -> the side where most of its already placed images stand; groups with none are left out."""
    known = images.assign(before=images["sha256"].map(_splits_by_hash(previous))).drop_duplicates("sha256")
    counts = known.groupby(["group", "before"]).size().unstack(fill_value=0).reindex(columns=list(SPLITS), fill_value=0)
    sides = counts.idxmax(axis="columns")  # the first of SPLITS wins a draw
    return {group: str(side) for group, side in sides.items()}


def _neediest_side(groups: int, reached: Mapping[str, int], share: Mapping[str, float]) -> str:
    """The first of train, test, val that none of a class's groups has reached; then the one furthest behind its share."""
    for side in _FILL_ORDER:
        if share[side] > 0 and not reached[side]:
            return side
    return max(_FILL_ORDER, key=lambda side: share[side] * groups - reached[side])
