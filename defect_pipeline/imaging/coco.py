"""COCO annotations of a set of images with instance masks, and the check that such a file is sound."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import bbox, encode

Annotated = tuple[list[np.ndarray], list[list[tuple[int, np.ndarray]]]]  # images, and the instances of each


def coco_dict(
    images: Sequence[Mapping[str, Any]],
    masks: Iterable[Sequence[tuple[str, np.ndarray]]],
    categories: Sequence[str],
) -> dict[str, Any]:
    """A COCO document of `images` (file_name, width, height, and what else shall ride along) and their instances.

    `masks` holds, per image, [(category, (height, width) bool)]. Ids count from 1, those of the categories in the
    order given; segmentations are compressed RLE with `counts` as text, areas and boxes [x, y, w, h] those of the mask,
    in px. Raises ValueError for an empty mask or one of another size than its image.
    """
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    entries = [{"id": number, **image} for number, image in enumerate(images, start=1)]
    annotations: list[dict[str, Any]] = []
    for entry, instances in zip(entries, masks, strict=True):
        size = [entry["height"], entry["width"]]
        for category, mask in instances:
            if list(mask.shape) != size or not mask.any():
                raise ValueError(f"{entry['file_name']}: a mask is empty or not {size[0]} x {size[1]}")
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry["id"],
                    "category_id": numbers[category],
                    "segmentation": {"size": size, "counts": encode(mask)},
                    "area": int(mask.sum()),
                    "bbox": bbox(mask),
                    "iscrowd": 0,
                }
            )
    return {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def coco_problems(coco: Mapping[str, Any], image_root: Path) -> list[str]:
    """What is wrong with a COCO document whose files lie below `image_root`, a sentence each; empty when it is sound.

    pycocotools loads it; ids are unique and those referred to exist; every file can be read and has the stated size;
    area and box of each annotation are those of its mask.
    """
    problems = _id_problems(coco)
    if problems:
        return problems  # pycocotools would mix up entries, and every later finding would be a consequence
    index = COCO()
    index.dataset = dict(coco)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            index.createIndex()
    except Exception as error:  # whatever a malformed document makes it raise
        return [f"pycocotools cannot load the document ({error!r})"]
    for image in coco["images"]:
        problems += _file_problems(image, image_root)
    for annotation in coco["annotations"]:
        problems += _mask_problems(index, annotation)
    return problems


def _id_problems(coco: Mapping[str, Any]) -> list[str]:
    problems = []
    known = {}
    for part in ("images", "annotations", "categories"):
        counts = Counter(entry.get("id") for entry in coco.get(part, []))
        known[part] = set(counts)
        problems += [f"{part} has id {number} {times} times" for number, times in counts.items() if times > 1]
        if part not in coco or None in counts:
            problems.append(f"{part} is missing or has an entry without id")
    for annotation in coco.get("annotations", []):
        for key, part in (("image_id", "images"), ("category_id", "categories")):
            if annotation.get(key) not in known[part]:
                problems.append(f"annotation {annotation.get('id')} has unknown {key} {annotation.get(key)}")
    return problems


def _file_problems(image: Mapping[str, Any], image_root: Path) -> list[str]:
    try:
        height, width = read_image(image_root / image["file_name"]).shape[:2]
    except PipelineError as error:
        return [f"image {image['id']}: {error}"]
    if (width, height) != (image["width"], image["height"]):
        stated = f"{image['width']} x {image['height']}"
        return [f"image {image['id']}: {image['file_name']} is {width} x {height}, the document says {stated}"]
    return []


def _mask_problems(index: COCO, annotation: dict[str, Any]) -> list[str]:
    name = f"annotation {annotation['id']}"
    image = index.imgs[annotation["image_id"]]
    try:
        mask = index.annToMask(annotation).astype(bool)
    except Exception as error:  # whatever a malformed segmentation makes it raise
        return [f"{name}: pycocotools cannot decode its mask ({error!r})"]
    if mask.shape != (image["height"], image["width"]):
        stated = f"{image['width']} x {image['height']}"
        return [f"{name}: its mask is {mask.shape[1]} x {mask.shape[0]}, its image {stated}"]
    problems = []
    if not mask.any():
        problems.append(f"{name}: its mask is empty")
    if annotation.get("area") != mask.sum():
        problems.append(f"{name}: area {annotation.get('area')}, but its mask has {mask.sum()} px")
    if annotation.get("bbox") != bbox(mask):
        problems.append(f"{name}: bbox {annotation.get('bbox')}, but its mask fills {bbox(mask)}")
    return problems
