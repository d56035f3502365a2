"""An image's shapes and the parts of its mask, brought together to rows of the instance table."""

from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as rle

from defect_pipeline.imaging import masks
from defect_pipeline.imaging.ingest.outlines import fill
from defect_pipeline.imaging.ingest.pixels import Pixels, turn_of
from defect_pipeline.imaging.ingest.survey import Entry, Shape, Survey
from defect_pipeline.imaging.io import UnusableFileError, oriented

Code = dict[str, Any]  # an (H, W) mask as COCO's compressed RLE: size [H, W] and counts, never unpacked without need


def instance_rows(survey: Survey, entry: Entry, pixels: Pixels) -> list[dict[str, Any]]:
    """Rows of the instance table (image_id left out). Raises UnusableFileError if the image cannot be used."""
    if entry.mask and entry.defective and not pixels.parts:
        remedy = "paint the defect brighter than 127 of 255, or move the image to the defect-free ones"
        raise UnusableFileError(entry.image, f"empty mask {entry.mask} on a defective image", remedy)
    if pixels.parts and not entry.defective:
        remedy = "name the class, or clear the mask"
        raise UnusableFileError(entry.image, f"its mask {entry.mask} marks a defect of no class", remedy)
    filled = _filled(survey, entry, pixels)
    if entry.defective and not filled:
        raise UnusableFileError(
            entry.image, "none of its annotations can be used", "correct the annotations listed for it"
        )
    if not pixels.parts:
        return [_row(shape.category, code, shape.source, shape.iscrowd) for shape, code in filled]
    parts = [{"size": [pixels.height, pixels.width], "counts": counts} for counts in pixels.parts]
    rows = [_row(_owner(part, filled), part, "mask") for part in parts]
    unmasked = [(shape, box) for shape, box in filled if not any(_common(part, box) for part in parts)]
    return rows + [_row(shape.category, box, shape.source) for shape, box in unmasked]


def _filled(survey: Survey, entry: Entry, pixels: Pixels) -> list[tuple[Shape, Code]]:
    """The shapes that can be drawn, each as drawn on the displayed image. Raises UnusableFileError."""
    if not entry.shapes:
        return []
    width, height = entry.size or (pixels.width, pixels.height)
    try:
        turn = turn_of((width, height), pixels)
    except UnusableFileError as error:
        raise UnusableFileError(entry.image, f"its annotation {error.reason}", error.remedy) from None
    filled = []
    for shape in entry.shapes:
        try:
            draw = _drawn_box if isinstance(shape.outline, tuple) else _drawn
            filled.append((shape, draw(shape.outline, height, width, turn)))
        except (ValueError, TypeError) as error:
            survey.reject(entry.image, f"{shape.name}: {error}", "correct or remove the annotation")
    return filled


def _drawn(outline: Any, height: int, width: int, turn: int) -> Code:
    """A box or COCO segmentation on an image of this size, turned as displayed. Raises ValueError or TypeError."""
    mask = oriented(fill(outline, height, width), turn)
    return {"size": list(mask.shape), "counts": masks.encode(mask)}


_drawn_box = lru_cache(maxsize=256)(_drawn)  # in class folders all images of a size have the same


def _owner(part: Code, boxes: list[tuple[Shape, Code]]) -> str:
    """Category of the box that shares most pixels with the part of a mask; of the nearest box where none shares any."""
    if len({shape.category for shape, _ in boxes}) == 1:
        return boxes[0][0].category
    overlaps = [_common(part, box) for _, box in boxes]
    if any(overlaps):
        return boxes[int(np.argmax(overlaps))][0].category
    centres = [
        np.argwhere(masks.decode(code["counts"], *code["size"])).mean(axis=0)
        for code in (part, *(box for _, box in boxes))
    ]
    return boxes[int(np.argmin(np.linalg.norm(centres[1:] - centres[0], axis=1)))][0].category


def _common(one: Code, other: Code) -> int:
    """Pixels that both cover."""
    return int(rle.area(rle.merge([one, other], intersect=True)))


def _row(category: str, code: Code, source: str, iscrowd: int = 0) -> dict[str, Any]:
    return {
        "category": category,
        "counts": code["counts"],
        "area": int(rle.area(code)),
        "bbox": [int(side) for side in rle.toBbox(code)],
        "source": source,
        "iscrowd": iscrowd,
    }
