"""A sound folder of each layout, and a count of what is opened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from defect_pipeline_tests.imaging.ingest.helpers import (
    H,
    W,
    annotation_of,
    drawn_mask,
    picture,
    polygon,
    rle,
    spot,
    write_xml,
)

Write = Callable[..., Path]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one for each picture that is decoded."""
    calls: list[str] = []
    whole = Image.open

    def counting(*args: Any, **options: Any) -> Any:
        calls.append("opened")
        return whole(*args, **options)

    monkeypatch.setattr(Image, "open", counting)
    return calls


@pytest.fixture
def coco(tmp_path: Path) -> Write:
    """Writes a sound COCO folder of four defective images and a clean one; arguments are added to its lists."""

    def write(images: tuple = (), annotations: tuple = (), categories: tuple = ()) -> Path:
        document: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
        for number in range(1, 6):
            picture(tmp_path / f"{number}.png", 40 * number)
            document["images"].append({"id": number, "file_name": f"{number}.png", "width": W, "height": H})
        document["annotations"] = [
            annotation_of(1, 1, polygon(4, 6, 5, 8)),
            annotation_of(2, 2, rle(spot(), packed=False)),
            annotation_of(3, 3, rle(spot(), packed=True), iscrowd=1),
            annotation_of(4, 4, rle(spot(), packed=True), category=2),
            *annotations,
        ]
        document["images"] += images
        document["categories"] = [{"id": 1, "name": "pit"}, {"id": 2, "name": "crack"}, *categories]
        (tmp_path / "annotations.json").write_text(json.dumps(document))
        return tmp_path

    return write


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two defect classes of three images and a clean class of two, as image + mask of the same stem."""
    for number in range(3):
        picture(tmp_path / "MT_Pit" / "Imgs" / f"p{number}.jpg", 50 + number)
        drawn_mask(tmp_path / "MT_Pit" / "Imgs" / f"p{number}.png", spot() | spot(15, 20, 3, 3))
        picture(tmp_path / "MT_Fray" / f"f{number}.jpg", 80 + number)
        drawn_mask(tmp_path / "MT_Fray" / f"f{number}.png", spot(0, 0, 9, 9))
    for number in range(2):
        picture(tmp_path / "MT_Free" / "Imgs" / f"c{number}.jpg", 110 + number)
        drawn_mask(tmp_path / "MT_Free" / "Imgs" / f"c{number}.png", np.zeros((H, W)))
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """a, b: masks; c: boxes alone; d: no objects. A box of 1-based inclusive corners around each part."""
    for stem in "abcd":
        picture(tmp_path / "JPEGImages" / f"{stem}.jpg")
    boxes = (("pit", 7, 5, 14, 9), ("scratch", 21, 16, 23, 18))
    write_xml(tmp_path / "Annotations" / "a.xml", *boxes)
    write_xml(tmp_path / "Annotations" / "b.xml", *boxes)
    write_xml(tmp_path / "Annotations" / "c.xml", boxes[0])
    write_xml(tmp_path / "Annotations" / "d.xml")
    drawn_mask(tmp_path / "Masks" / "a.png", spot(5, 6, 3, 7) | spot(16, 20, 2, 2) | spot(19, 24, 1, 1))
    drawn_mask(tmp_path / "Masks" / "b.png", spot(5, 6, 3, 7))
    return tmp_path
