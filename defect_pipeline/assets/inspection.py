"""Raw images → one table of images, instances, groups and splits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import imaging
from defect_pipeline.assets.stage import Build, Pipeline, data_root, dataset_digest, stage
from defect_pipeline.automation.partitions import DEFECT_CLASS
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.ingest import ingest, scan
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.splits import assign_splits, check_splits, moved_images
from defect_pipeline.lazy import pd
from defect_pipeline.store import Store, digest_of

if TYPE_CHECKING:
    from defect_pipeline.imaging.groups import Description


def folder_digest(pipeline: Pipeline) -> str:
    """Names, sizes and times of the files in the data folder: cheap, so a rerun knows whether to look closer."""
    return digest_of(pipeline.recorded_root, sorted(scan(pipeline.root).items()))


@stage(
    parents=(),
    settings=lambda pipeline: (folder_digest(pipeline), pipeline.part_regex, pipeline.settings.splits),
    group="data",
    kinds={"opencv", "pandas"},
)
def inspection_images(build: Build) -> None:
    """Every usable image with its defect instances, the part behind it and its side of the split."""
    pipeline = build.pipeline
    previous = _previous(build.store, pipeline)
    dataset = ingest(pipeline.root, previous)
    dataset = dataset.with_columns(group=_groups(dataset, pipeline.part_regex, build))
    splits = build.settings.splits
    before = None if previous is None else previous.images
    dataset = dataset.with_columns(
        split=assign_splits(dataset.images, before, (splits.train, splits.val, splits.test), pipeline.seed)
    )
    if problems := check_splits(dataset.images):
        raise PipelineError(" ".join(problems))
    dataset.save(build.path)
    build.context.instance.add_dynamic_partitions(DEFECT_CLASS, list(dataset.categories))

    images = dataset.images
    build.metadata |= {
        "root": pipeline.recorded_root,
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
    build.picture("annotated images", _sheet(dataset, build.pipeline.seed))


def _groups(dataset: Dataset, part_regex: str, build: Build) -> list[str]:
    """The part behind each image, from its pixels and, where there is a regex, from its name."""
    paths, hashes = dataset.images["path"].tolist(), dataset.images["sha256"].tolist()
    image_ids = dict(zip(hashes, dataset.images.index, strict=True))
    cache = build.store.cache("inspection_images")
    imaging.descriptions.forget_others(cache, hashes)
    gallery, looked_at = imaging.descriptions.read_gallery(cache), set[str]()

    def describe(sha256: str) -> Description:
        if sha256 not in looked_at:
            looked_at.add(sha256)
            build.progress(len(looked_at), len(image_ids))
        return imaging.descriptions.described(cache, sha256, partial(dataset.image, image_ids[sha256]))

    gallery.update(hashes, describe)
    imaging.descriptions.write_gallery(cache, gallery)
    return gallery.labels(hashes, imaging.groups.part_ids_of(paths, part_regex) if part_regex else None)


def _previous(store: Store, pipeline: Pipeline) -> Dataset | None:
    """The images that the store knows of this folder from before, wherever it lay; their annotations are read anew."""
    if not store.partitions("inspection_images"):
        return None
    known = store.current("inspection_images")
    root = data_root(known)
    if root != pipeline.root and root.exists():  # another folder
        return None
    return Dataset.load(known.path, pipeline.root, annotated=False)


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
