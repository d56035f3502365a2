"""YOLO segmentation as Ultralytics reads it: `images/train`, `labels/train`, a `data.yaml`, one line for each defect.

A line is one polygon. A defect of several pieces, or with a hole, is one polygon too, that goes from piece to piece and
back the same way (see `outlines`): its area is the mask's and the number of defects stays. The alternative, a line for
each piece, would make several defects of one. There is no word for where an image comes from: the file names say it.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import yaml

from defect_pipeline.imaging.export.outlines import joined, polygons
from defect_pipeline.imaging.export.pictures import IMAGES, Picture, by_split

LABELS = "labels"


def write_yolo(folder: Path, pictures: Sequence[Picture], categories: Sequence[str]) -> None:
    """`labels` and `data.yaml`; an image without defects has an empty file."""
    numbers = {name: number for number, name in enumerate(categories)}
    splits = by_split(pictures)
    for split, own in splits.items():
        (folder / LABELS / split).mkdir(parents=True)
        for picture in own:
            path = folder / LABELS / split / PurePath(picture.name).with_suffix(".txt")
            lines = [_line(numbers[name], mask) for name, mask in picture.masks]
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    # both keys are asked for; without real images there is none to validate on
    sides = {"train": f"{IMAGES}/train", "val": f"{IMAGES}/{'val' if 'val' in splits else 'train'}"}
    if "test" in splits:
        sides["test"] = f"{IMAGES}/test"
    document = yaml.safe_dump({**sides, "names": dict(enumerate(categories))}, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(document, encoding="utf-8")


def _line(number: int, mask: np.ndarray) -> str:
    """The class's number, then x and y of each point as shares of the width and height; exact up to 500 000 px."""
    height, width = mask.shape
    points = joined(polygons(mask)) / (width, height)
    return " ".join([str(number), *(f"{share:.6f}" for share in points.ravel())])
