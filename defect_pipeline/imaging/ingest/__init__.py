"""A folder of inspection images to a Dataset. Three layouts are recognised by looking:

COCO           `annotations.json` (or one other *.json with COCO's keys) beside the images or above `images/`:
               polygons, uncompressed and compressed RLE. An image without annotations is defect-free.
Class folders  an image and a mask of the same stem anywhere below a folder that names the class. The mask is the PNG
               of the two, or the file in a folder called `masks`. A class whose masks are all empty is defect-free.
Pascal VOC     `Annotations/*.xml`, `Images` or `JPEGImages`, optionally `Masks` (names in any case). Each connected
               part of a mask is an instance of the box that it shares most pixels with. A box in which nothing is
               masked is filled, as all boxes are where there is no mask. An XML without objects means defect-free.

In all three, images below `defect_free/` are defect-free. What cannot be used is listed in `rejected`.

Rotated images: annotations and mask files are taken as drawn on the displayed (EXIF-rotated) image where their size
fits it, else as drawn on the stored pixels, and turned along.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import INSTANCE_COLUMNS, REJECTED_COLUMNS, Dataset
from defect_pipeline.imaging.ingest.class_folders import (
    class_folder_entries,
    defect_free_entries,
    without_empty_classes,
)
from defect_pipeline.imaging.ingest.coco import coco_document, coco_entries
from defect_pipeline.imaging.ingest.instances import instance_rows
from defect_pipeline.imaging.ingest.pixels import Pixels, read_all
from defect_pipeline.imaging.ingest.survey import Entry, Survey, scan
from defect_pipeline.imaging.ingest.voc import voc_entries, voc_files
from defect_pipeline.imaging.io import UnusableFileError
from defect_pipeline.lazy import pd

__all__ = ["ingest", "scan"]


def ingest(
    root: Path,
    previous: Dataset | None = None,
    *,
    min_defective: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The Dataset of a folder in one of the three layouts (see the module).

    Images that `previous` has opened, used or not, and that have the same path, size and modification time are not
    opened again, nor are their masks; COCO and VOC annotations are always read anew. `on_progress(done, total)` counts
    the images that are opened.
    Raises PipelineError if the folder has no such layout, or if no class is left with `min_defective` usable images.
    """
    if not root.is_dir():
        raise PipelineError(f"{root} is not a folder; give the folder that holds the inspection images.")
    survey = Survey.of(root)
    entries, class_folders = _entries(survey)
    pixels, opened = read_all(survey, entries, previous, on_progress)
    if class_folders:
        entries = without_empty_classes(entries, pixels)
    dataset = replace(_tables(survey, root, entries, pixels), opened=opened)
    shown = dataset.instances.groupby("category")["image_id"].nunique()
    if shown.max() < min_defective or shown.empty:
        left_out = _left_out(survey)
        raise PipelineError(
            f"{root}: no defect class is left with {min_defective} usable images{left_out}; mend these, or add images."
        )
    return dataset


def _left_out(survey: Survey) -> str:
    """The first reasons of a survey in brackets, behind a space; nothing where there are none."""
    first = "; ".join(f"{path}: {reason}" for path, reason, _ in survey.rejected[:3])
    return f" ({len(survey.rejected)} files or annotations were left out: {first} ...)" if first else ""


def _entries(survey: Survey) -> tuple[list[Entry], bool]:
    """The images, and whether the layout is class folders. Raises PipelineError if the folder has no layout."""
    coco = coco_document(survey)
    class_folders = not coco and not voc_files(survey)
    if coco:
        entries = coco_entries(survey, *coco)
    elif class_folders:
        entries = class_folder_entries(survey)
    else:
        entries = voc_entries(survey)
    if class_folders and not entries:
        raise PipelineError(
            f"{survey.root} has none of the three layouts read here{_left_out(survey)}; give it annotations.json (COCO), a folder "
            "for each class with images and mask PNGs of the same stem, or Annotations/*.xml with Images/ (Pascal VOC)."
        )
    listed = {entry.image for entry in entries} | {path for path, _, _ in survey.rejected}
    return entries + defect_free_entries(survey, listed), class_folders


def _tables(survey: Survey, root: Path, entries: list[Entry], pixels: dict[str, Pixels]) -> Dataset:
    """The Dataset of those entries that have pixels; what turns out unusable joins the rejected."""
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for entry in sorted((entry for entry in entries if entry.image in pixels), key=lambda entry: entry.image):
        try:
            rows = instance_rows(survey, entry, pixels[entry.image])
        except UnusableFileError as error:
            survey.reject(entry.image, error.reason, error.remedy)
            continue
        seen = pixels[entry.image]
        images.append({"path": entry.image, "sha256": seen.sha256, "width": seen.width, "height": seen.height})
        instances += [{"image_id": len(images)} | row for row in rows]
    images_of: dict[str, set[int]] = defaultdict(set)
    for row in instances:
        images_of[row["category"]].add(row["image_id"])
    rarest_first = sorted(images_of, key=lambda name: (len(images_of[name]), name))
    for image_id, image in enumerate(images, start=1):
        image["defect_class"] = next((name for name in rarest_first if image_id in images_of[name]), "")
    return Dataset(
        root=root,
        images=pd.DataFrame(images, index=pd.RangeIndex(1, len(images) + 1, name="image_id")),
        instances=pd.DataFrame(instances, columns=list(INSTANCE_COLUMNS)),
        categories=tuple(sorted(images_of)),
        rejected=pd.DataFrame(sorted(survey.rejected), columns=list(REJECTED_COLUMNS), dtype=str),
    )
