"""CVAT for images 1.1: `annotations.xml`, and `labels.json` to paste as the raw labels of the project.

A mask is CVAT's own RLE: lengths of runs row by row within its box, of background and defect in turn, background
first (0 where there is none). CVAT has no word for an image as a whole: each mask has the attribute `synthetic`, and the
file names say it for images without defects.
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from defect_pipeline.imaging.export.pictures import Picture, by_split, hex_colours, refuse_unwritable, run_lengths
from defect_pipeline.imaging.masks import bbox

FLAG = {"name": "synthetic", "mutable": False, "input_type": "checkbox", "default_value": "false", "values": ["false"]}


def write_cvat(folder: Path, pictures: Sequence[Picture], categories: Sequence[str]) -> None:
    """Raises PipelineError for a class name that XML cannot hold or that is longer than 64 characters."""
    refuse_unwritable(categories, "CVAT", longest=64)
    labels = [
        {"name": name, "color": colour, "type": "mask", "attributes": [FLAG]}
        for name, colour in hex_colours(categories).items()
    ]
    (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False, indent=1), encoding="utf-8")
    # in the order in which CVAT numbers the files of a task: it goes by number where it does not find a name
    ordered = sorted(chain.from_iterable(by_split(pictures).values()), key=lambda picture: picture.path)
    root = ElementTree.Element("annotations")
    _tell(root, "version", "1.1")
    _task(ElementTree.SubElement(root, "meta"), len(ordered), labels)
    for number, picture in enumerate(ordered):
        name, size = f"{picture.split}/{picture.name}", {"width": str(picture.width), "height": str(picture.height)}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": name, **size})
        for category, mask in picture.masks:
            placed = {"label": category, "source": "file", "occluded": "0", **_shape(mask), "z_order": "0"}
            found = ElementTree.SubElement(image, "mask", placed)
            ElementTree.SubElement(found, "attribute", {"name": "synthetic"}).text = str(picture.synthetic).lower()
    ElementTree.indent(root, " ")
    ElementTree.ElementTree(root).write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)


def _shape(mask: np.ndarray) -> dict[str, str]:
    left, top, width, height = bbox(mask)
    inside = mask[top : top + height, left : left + width].ravel()
    runs = [0] * int(inside[0]) + run_lengths(inside).tolist()
    box = {"left": left, "top": top, "width": width, "height": height}
    return {"rle": ", ".join(map(str, runs)), **{side: str(value) for side, value in box.items()}}


def _task(meta: ElementTree.Element, size: int, labels: list[dict[str, Any]]) -> None:
    task = ElementTree.SubElement(meta, "task")
    _tell(task, "name", "defect-pipeline")
    _tell(task, "size", str(size))
    _tell(task, "mode", "annotation")
    parent = ElementTree.SubElement(task, "labels")
    for label in labels:
        node = ElementTree.SubElement(parent, "label")
        for key in ("name", "color", "type"):
            _tell(node, key, label[key])
        attribute = ElementTree.SubElement(ElementTree.SubElement(node, "attributes"), "attribute")
        _tell(attribute, "name", "synthetic")
        _tell(attribute, "mutable", "False")
        _tell(attribute, "input_type", "checkbox")
        _tell(attribute, "default_value", "false")
        _tell(attribute, "values", "false")


def _tell(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
