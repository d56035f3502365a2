"""Raw images → one table of images, instances, groups and splits."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import imaging
from defect_pipeline.assets.stage import INSPECTION, Build, data_root, dataset_digest, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.ingest import ingest, scan
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.splits import assign_splits, check_splits, moved_images
from defect_pipeline.lazy import pd
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import Splits
from defect_pipeline.resumable import Progress
from defect_pipeline.store import Artifact, digest_of

if TYPE_CHECKING:
    from defect_pipeline.imaging.groups import Description


log = logging.getLogger("defect_pipeline")


def folder_digest(pipeline: Pipeline) -> str:
    """Names, sizes and times of the files in the data folder: cheap, so a rerun knows whether to look closer."""
    return digest_of(pipeline.recorded_root, pipeline.part_regex, sorted(scan(pipeline.root).items()))


@stage(
    parents=(),
    settings=("splits",),
    options=("data", "home", "part_regex"),
    files=folder_digest,
    group="data",
    kinds={"opencv", "pandas"},
)
def inspection_images(build: Build) -> None:
    """Every usable image with its defect instances, the part behind it and its side of the split."""
    options, splits = build.options, build.settings.splits
    previous = _previous(build.before(), options.root)
    _say_what_stays(build.before(), splits)
    dataset = ingest(options.root, previous)
    dataset = dataset.with_columns(group=_groups(dataset, options.part_regex, build.cache(INSPECTION), build.progress))
    before = None if previous is None else previous.images
    dataset = dataset.with_columns(
        split=assign_splits(dataset.images, before, (splits.train, splits.val, splits.test), build.seed)
    )
    if problems := check_splits(dataset.images):
        raise PipelineError(" ".join(problems))
    dataset.save(build.path)
    build.keep(splits)

    images = dataset.images
    build.draft.contents |= {"": dataset_digest(dataset), "root": options.recorded_root}
    build.metadata |= {
        "root": options.recorded_root,
        "content": dataset_digest(dataset),
        "images": len(images),
        "defect_free": int((images["defect_class"] == "").sum()),
        "instances": len(dataset.instances),
        "groups": int(images["group"].nunique()),
        "rejected": len(dataset.rejected),
        "images by class and split": _counts(images),
    }
    if len(dataset.rejected):
        build.metadata["rejected files"] = dataset.rejected.head(200).to_dict("records")
    if before is not None and len(moved := moved_images(images, before)):
        build.metadata["images that changed sides"] = moved.to_dict("records")
    build.picture("annotated images", _sheet(dataset, build.seed))


def _groups(dataset: Dataset, part_regex: str, cache: Path, progress: Progress) -> list[str]:
    """The part behind each image, from its pixels and, where there is a regex, from its name."""
    paths, hashes = dataset.images["path"].tolist(), dataset.images["sha256"].tolist()
    image_ids = dict(zip(hashes, dataset.images.index, strict=True))
    imaging.descriptions.forget_others(cache, hashes)
    gallery, looked_at = imaging.descriptions.read_gallery(cache), set[str]()

    def describe(sha256: str) -> Description:
        if sha256 not in looked_at:
            looked_at.add(sha256)
            progress(len(looked_at), len(image_ids))
        return imaging.descriptions.described(cache, sha256, partial(dataset.image, image_ids[sha256]))

    gallery.update(hashes, describe)
    imaging.descriptions.write_gallery(cache, gallery)
    return gallery.labels(hashes, imaging.groups.part_ids_of(paths, part_regex) if part_regex else None)


def _previous(known: Artifact | None, root: Path) -> Dataset | None:
    """The images that the store knows of this folder from before, wherever it lay; their annotations are read anew."""
    if known is None or (data_root(known) != root and data_root(known).exists()):  # another folder
        return None
    return Dataset.load(known.path, root, annotated=False)


def _say_what_stays(known: Artifact | None, splits: Splits) -> None:
    """Shares that were changed change the split of no image that is there."""
    with suppress(PipelineError):  # of an earlier version
        if known is not None and (before := known.load(Splits)) != splits:
            log.warning(
                "The shares of the splits were %s and are %s: they hold for new images alone. A new store splits anew.",
                astuple(before), astuple(splits),
            )  # fmt: skip


def _counts(images: pd.DataFrame) -> list[dict]:
    table = images.groupby(["defect_class", "split"]).size().unstack(fill_value=0)
    return [
        {"class": k or "defect-free"} | {side: int(row.get(side, 0)) for side in ("train", "val", "test")}
        for k, row in table.iterrows()
    ]


def _sheet(dataset: Dataset, seed: int) -> np.ndarray:
    """Up to six images of each class with their masks, a row a class."""
    colours = class_colours(dataset.categories)
    rng = np.random.default_rng(seed)
    splits = dataset.images["split"].to_dict()
    pictures, captions = [], []
    for category in dataset.categories:
        ids = rng.permutation(dataset.of_class(category))[:6]
        for image_id in ids:
            pictures.append(overlay(dataset.image(int(image_id)), dataset.masks(int(image_id)), colours))
            captions.append(f"{category} {splits[int(image_id)]}")
    return contact_sheet(pictures, captions, columns=6)
