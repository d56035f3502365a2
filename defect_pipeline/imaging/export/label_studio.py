"""Label Studio: `tasks.json` to import, and `labeling_config.xml` for the project's labelling interface.

Masks are brush strokes, in Label Studio's own RLE. `data.synthetic` stands on each task, beside what else is known of
where its image comes from. Images are found through local file storage: the folder above the exported one is the document
root, so the exported folder must keep its name.
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from defect_pipeline.imaging.export.pictures import Picture, by_split, hex_colours, refuse_unwritable, run_lengths

TAG, IMAGE = "defects", "image"  # of the labels and of the image in the interface
WORD = 8  # bits of a value
SIZES = (3, 4, 8, 16)  # bits of a run's length, of which each run says which it takes


def write_label_studio(folder: Path, pictures: Sequence[Picture], categories: Sequence[str]) -> None:
    """Raises PipelineError for a class name that XML cannot hold."""
    refuse_unwritable(categories, "Label Studio")
    ordered = chain.from_iterable(by_split(pictures).values())
    tasks = [_task(number, picture, folder.name) for number, picture in enumerate(ordered, start=1)]
    (folder / "tasks.json").write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true")
    labels = ElementTree.SubElement(view, "BrushLabels", name=TAG, toName=IMAGE)
    for name, colour in hex_colours(categories).items():
        ElementTree.SubElement(labels, "Label", value=name, background=colour)
    ElementTree.indent(view, " ")
    ElementTree.ElementTree(view).write(folder / "labeling_config.xml", encoding="utf-8")


def brush_rle(mask: np.ndarray) -> list[int]:
    """The bytes of a (H, W) bool mask as an RGBA image, 255 in all four channels where it is set, row by row.

    The number of values (32 bits), their width less 1 (5), each of SIZES less 1 (4); then runs: a 1, which of SIZES (2),
    the length less 1, the value. Zeros fill the last byte.
    """
    values = mask.ravel()
    bits = [f"{4 * len(values):032b}{WORD - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    value = bool(values[0])
    for length in (4 * run_lengths(values)).tolist():
        while length:
            part = min(length, 1 << SIZES[-1])
            which = next(which for which, size in enumerate(SIZES) if part <= 1 << size)
            bits.append(f"1{which:02b}{part - 1:0{SIZES[which]}b}{255 * value:0{WORD}b}")
            length -= part
        value = not value
    joint = "".join(bits)
    joint += "0" * (-len(joint) % 8)
    return list(int(joint, 2).to_bytes(len(joint) // 8, "big"))


def _task(number: int, picture: Picture, folder: str) -> dict[str, Any]:
    results = [
        {
            "id": f"{number}-{k}", "type": "brushlabels", "from_name": TAG, "to_name": IMAGE, "origin": "manual",
            "original_width": picture.width, "original_height": picture.height, "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [category]},
        }
        for k, (category, mask) in enumerate(picture.masks)
    ]  # fmt: skip
    where = f"/data/local-files/?d={quote(f'{folder}/{picture.path}')}"
    known = {"split": picture.split, "synthetic": picture.synthetic, **picture.origin}
    return {"data": {IMAGE: where, **known}, "annotations": [{"result": results}]}
