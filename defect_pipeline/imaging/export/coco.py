"""COCO instances, a file for each split: `annotations/instances_train.json` of the files in `images/train`.

Masks as RLE, or as polygons: several to an instance, cut open where it has a hole (see `outlines`), so that in both
pycocotools decodes each mask exactly. A crowd is RLE in both, as in COCO itself. `synthetic` stands on each image, beside
what else is known of where it comes from.
"""

import json
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.export.outlines import polygons
from defect_pipeline.imaging.export.pictures import Picture, by_split
from defect_pipeline.imaging.masks import decode

Segmentation = dict[str, Any] | list[list[int]]


def write_coco_rle(folder: Path, pictures: Sequence[Picture], categories: Sequence[str]) -> None:
    """COCO with masks as compressed RLE."""
    _write(folder, pictures, categories, lambda rle: rle)


def write_coco_polygons(folder: Path, pictures: Sequence[Picture], categories: Sequence[str]) -> None:
    """COCO with masks as polygons, for tools that do not take RLE."""
    _write(folder, pictures, categories, _polygons)


def _polygons(rle: dict[str, Any]) -> Segmentation:
    return [ring.ravel().tolist() for ring in polygons(decode(rle["counts"], *rle["size"]))]


def _write(
    folder: Path,
    pictures: Sequence[Picture],
    categories: Sequence[str],
    segmentation: Callable[[dict[str, Any]], Segmentation],
) -> None:
    (folder / "annotations").mkdir()
    for split, own in by_split(pictures).items():
        document = coco_dict([_entry(picture) for picture in own], (list(p.masks) for p in own), categories)
        instances = chain.from_iterable(picture.instances for picture in own)
        for annotation, instance in zip(document["annotations"], instances, strict=True):
            annotation["iscrowd"] = int(instance.crowd)
            if not instance.crowd:
                annotation["segmentation"] = segmentation(annotation["segmentation"])
        document = {"info": {"description": "Written by defect-pipeline; README.md tells more."}, **document}
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _entry(picture: Picture) -> dict[str, Any]:
    size = {"width": picture.width, "height": picture.height}
    return {"file_name": picture.name, **size, "synthetic": picture.synthetic, **picture.origin}
