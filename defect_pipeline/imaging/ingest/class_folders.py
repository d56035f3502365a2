"""Class folders: an image and a mask of the same stem below a folder that names the class; and `defect_free/`."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from defect_pipeline.imaging.ingest.pixels import Pixels
from defect_pipeline.imaging.ingest.survey import (
    DEFECT_FREE,
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Entry,
    Shape,
    Survey,
    is_free,
    suffix_of,
)

_WHOLE = (0.0, 0.0, float("inf"), float("inf"))


def class_folder_entries(survey: Survey) -> list[Entry]:
    """The sound pairs; each mask belongs to the class of its top-level folder, as a box around everything would say."""
    entries = []
    for place, (images, found) in _pairs(path for path in survey.images() if not is_free(path)).items():
        if len(place) == 1:
            for path in images + found:
                survey.reject(path, "lies in no class folder", f"move it to the folder of its class, or {DEFECT_FREE}/")
        elif len(images) == len(found) == 1:
            shape = Shape("mask", place[0], _WHOLE)
            entries.append(Entry(images[0], found[0], (shape,), True))
        else:
            _reject_odd(survey, images, found)
    return entries


def defect_free_entries(survey: Survey, listed: set[str]) -> list[Entry]:
    """What lies in defect_free/ and is not `listed` already; a mask may stand beside an image, and must be empty."""
    entries = []
    for images, found in _pairs(path for path in survey.images() if is_free(path) and path not in listed).values():
        if len(images) == 1 and len(found) <= 1:
            entries.append(Entry(images[0], "".join(found)))
        else:
            _reject_odd(survey, images, found)
    return entries


def without_empty_classes(entries: list[Entry], pixels: dict[str, Pixels]) -> list[Entry]:
    """A class whose masks are all empty is the defect-free one."""
    marked = {shape.category for e in entries if e.image in pixels and pixels[e.image].parts for shape in e.shapes}
    empty = [not any(shape.category in marked for shape in entry.shapes) for entry in entries]
    return [replace(e, shapes=(), defective=False) if free else e for e, free in zip(entries, empty, strict=True)]


def _pairs(paths: Iterable[str]) -> dict[tuple[str, ...], tuple[list[str], list[str]]]:
    """Place and stem -> (images, masks) found for it; a sound pair has one of each."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in paths:
        *folders, name = path.split("/")
        plain = [part for part in folders if part.lower() not in IMAGE_FOLDERS + MASK_FOLDERS]
        groups[*plain, os.path.splitext(name)[0]].append(path)
    return {place: _images_and_masks(group) for place, group in groups.items()}


def _images_and_masks(group: list[str]) -> tuple[list[str], list[str]]:
    marked = [path for path in group if any(part.lower() in MASK_FOLDERS for part in path.split("/")[:-1])]
    if not marked and len(group) > 1:
        marked = [path for path in group if suffix_of(path) == ".png"]
    return [path for path in group if path not in marked], marked


def _reject_odd(survey: Survey, images: list[str], found: list[str]) -> None:
    for path in images + found:
        if len(images) + len(found) > 1:
            survey.reject(path, "shares its stem with other images or masks", "keep one image and one mask of a stem")
        elif images:
            survey.reject(path, "is an image without a mask", "add a PNG mask of the same stem")
        else:
            survey.reject(path, "is a mask without an image", "add the image of the same stem, or remove the mask")
