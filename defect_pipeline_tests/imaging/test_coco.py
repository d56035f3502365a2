"""The COCO document of a synthetic set loads in pycocotools, and every way it can be wrong is found."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from defect_pipeline.imaging.coco import coco_dict, coco_problems


def _mask(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((20, 30), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """Three images (one defect-free), four instances, as it comes back from a JSON file."""
    images = [{"file_name": f"images/{name}.png", "width": 30, "height": 20, "seed": 7} for name in "abc"]
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (30, 20)).save(tmp_path / str(image["file_name"]))
    masks = [[("pit", _mask(2, 3, 4, 5)), ("crack", _mask(10, 0, 1, 30))], [], [("crack", _mask(0, 0, 20, 30))]]
    return json.loads(json.dumps(coco_dict(images, masks, ["crack", "pit"])))


def test_document_is_sound_and_complete(document: dict[str, Any], tmp_path: Path) -> None:
    assert coco_problems(document, tmp_path) == []
    assert document["categories"] == [{"id": 1, "name": "crack"}, {"id": 2, "name": "pit"}]
    assert [image["id"] for image in document["images"]] == [1, 2, 3]
    assert all(image["seed"] == 7 for image in document["images"])
    annotations = document["annotations"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in annotations] == [(1, 1, 2), (2, 1, 1), (3, 3, 1)]
    assert annotations[0]["area"] == 20 and annotations[0]["bbox"] == [3, 2, 5, 4]


def test_masks_come_back_from_pycocotools(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    coco = COCO(tmp_path / "annotations.json")
    assert (coco.annToMask(coco.anns[1]) == _mask(2, 3, 4, 5)).all()
    assert coco.getImgIds(catIds=[1]) and len(coco.getAnnIds(imgIds=[1])) == 2


def test_a_mask_that_cannot_be_an_annotation_is_refused() -> None:
    image = {"file_name": "a.png", "width": 30, "height": 20}
    for mask in (_mask(0, 0, 0, 0), _mask(0, 0, 5, 5)[:10]):
        with pytest.raises(ValueError, match="a.png"):
            coco_dict([image], [[("pit", mask)]], ["pit"])


def _break(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def broken(document: dict[str, Any]) -> dict[str, Any]:
        document = copy.deepcopy(document)
        change(document)
        return document

    return broken


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (_break(lambda d: d["annotations"][0].update(area=21)), "annotation 1: area 21"),
        (_break(lambda d: d["annotations"][0].update(bbox=[3, 2, 5, 5])), "annotation 1: bbox"),
        (_break(lambda d: d["annotations"][1].update(id=1)), "annotations has id 1 2 times"),
        (_break(lambda d: d["images"][1].update(id=1)), "images has id 1 2 times"),
        (_break(lambda d: d["annotations"][0].update(category_id=9)), "unknown category_id 9"),
        (_break(lambda d: d["annotations"][0].update(image_id=9)), "unknown image_id 9"),
        (_break(lambda d: d.pop("categories")), "categories is missing"),
        (_break(lambda d: d["images"][0].update(file_name="images/z.png")), "z.png"),
        (_break(lambda d: d["images"][0].update(width=31)), "the document says 31 x 20"),
        (_break(lambda d: d["annotations"][0]["segmentation"].update(size=[30, 20])), "its mask is 20 x 30"),
        (_break(lambda d: d["annotations"][0].pop("segmentation")), "cannot decode its mask"),
        (_break(lambda d: d["annotations"][0]["segmentation"].update(counts="")), "annotation 1"),
    ],
)
def test_every_fault_is_found(
    broken: Callable[[dict[str, Any]], dict[str, Any]], finding: str, document: dict[str, Any], tmp_path: Path
) -> None:
    assert any(finding in problem for problem in coco_problems(broken(document), tmp_path))
