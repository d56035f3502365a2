"""What each format holds is what was written: masks to the last pixel, names, sizes, and which images are synthetic."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from defect_pipeline.cli import FORMATS
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.export import WRITERS
from defect_pipeline.imaging.export.label_studio import brush_rle
from defect_pipeline.imaging.export.pictures import Instance, Picture
from defect_pipeline.imaging.masks import encode
from defect_pipeline_tests.imaging.export.readers import READERS, inside

NAMES = ("crack", 'oil & "grease" <thin>', "Öl/汚れ: 1", "3")
HEIGHT, WIDTH = 40, 70
ORIGIN = {"seed": 2**55 - 1, "driver": 3}


def masks() -> dict[str, np.ndarray]:
    """(HEIGHT, WIDTH) bool each: what is hard to say in one format or another."""
    drawn = {name: np.zeros((HEIGHT, WIDTH), np.uint8) for name in ("parts", "rings", "touching", "noise", "thin")}
    drawn["parts"][2:9, 3:20] = drawn["parts"][30:40, 60:70] = drawn["parts"][20, 5] = 1
    cv2.circle(drawn["rings"], (30, 20), 15, 1, 3)
    cv2.circle(drawn["rings"], (30, 20), 6, 1, 2)  # a ring in the hole of a ring
    drawn["touching"][5:8, 5:8] = np.eye(3)
    drawn["touching"][20:23, 20:23] = [[1, 1, 1], [1, 0, 1], [1, 1, 0]]  # a hole that is open at a corner
    drawn["noise"] = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.6
    cv2.line(drawn["thin"], (0, 39), (69, 0), 1, 1)
    found = {name: mask.astype(bool) for name, mask in drawn.items()}
    for name, rows, columns in (("pixel", [17], [33]), ("corners", [0, 0, -1, -1], [0, -1, 0, -1])):
        found[name] = np.zeros((HEIGHT, WIDTH), bool)
        found[name][rows, columns] = True
    return found | {"all": np.ones((HEIGHT, WIDTH), bool)}


def picture(stem: str, instances: Sequence[tuple[str, np.ndarray]], split: str = "train", synthetic: bool = True):
    shape = instances[0][1].shape if instances else (WIDTH, HEIGHT)
    own = tuple(Instance(name, encode(mask)) for name, mask in instances)
    return Picture(stem, split, *shape, synthetic=synthetic, instances=own, origin=ORIGIN)


@pytest.fixture
def pictures() -> list[Picture]:
    """Each mask in an image of its own, all of them in another, an empty image, and real ones of other splits."""
    own = list(masks().items())
    several = [(NAMES[k % len(NAMES)], mask) for k, (_, mask) in enumerate(own)]
    return [
        *(picture(name, [(NAMES[k % len(NAMES)], mask)]) for k, (name, mask) in enumerate(own)),
        picture("several", several),
        picture("empty", []),
        picture("other", several[:2], split="val", synthetic=False),
        picture("nothing", [], split="test", synthetic=False),
    ]


def written(form: str, pictures: list[Picture], folder: Path) -> Path:
    """The folder, with images of noise."""
    folder.mkdir()
    for item in pictures:
        (folder / item.path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / item.path), np.zeros((item.height, item.width, 3), np.uint8))
    WRITERS[form](folder, pictures, NAMES)
    return folder


def test_the_command_offers_every_format() -> None:
    assert tuple(WRITERS) == FORMATS == tuple(READERS)


@pytest.mark.parametrize("form", WRITERS)
def test_masks_names_sizes_and_flags_come_back(form: str, pictures: list[Picture], tmp_path: Path) -> None:
    read = READERS[form](written(form, pictures, tmp_path / "of 5 % & more"))
    assert set(read) == {item.path for item in pictures}
    for item in pictures:
        found = read[item.path]
        assert (found.height, found.width, found.synthetic) == (item.height, item.width, item.synthetic)
        assert [name for name, _ in found.instances] == [name for name, _ in item.masks], item.stem
        for (_, mask), (_, wanted) in zip(found.instances, item.masks, strict=True):
            assert (mask == wanted).all(), f"{item.stem}: IoU {(mask & wanted).sum() / (mask | wanted).sum():.3f}"


@pytest.mark.parametrize("form", ["coco", "coco-polygons"])
def test_coco_says_where_an_image_comes_from_and_keeps_crowds(form: str, tmp_path: Path) -> None:
    mask = masks()["rings"]
    crowd = Picture("crowd", "train", HEIGHT, WIDTH, False, (Instance(NAMES[0], encode(mask), crowd=True),), ORIGIN)
    folder = written(form, [crowd, picture("rings", [(NAMES[0], mask)])], tmp_path / form)
    document = json.loads((folder / "annotations" / "instances_train.json").read_text("utf-8"))
    assert all(image.items() >= ORIGIN.items() for image in document["images"])
    assert [annotation["iscrowd"] for annotation in document["annotations"]] == [1, 0]
    kinds = [type(annotation["segmentation"]) for annotation in document["annotations"]]
    assert kinds == [dict, list if form == "coco-polygons" else dict]
    assert document["annotations"][1]["area"] == mask.sum()


def test_polygons_of_coco_are_simple(pictures: list[Picture], tmp_path: Path) -> None:
    """No point twice, so that tools which refuse a polygon that meets itself take them."""
    folder = written("coco-polygons", pictures, tmp_path / "set")
    document = json.loads((folder / "annotations" / "instances_train.json").read_text("utf-8"))
    rings = [np.reshape(ring, (-1, 2)) for a in document["annotations"] for ring in a["segmentation"]]
    assert len(rings) > len(document["annotations"])  # parts and holes made some
    assert all(len(np.unique(ring, axis=0)) == len(ring) >= 4 for ring in rings)


def test_yolo_without_real_images_names_a_side_to_validate_on(tmp_path: Path) -> None:
    folder = written("yolo", [picture("pixel", [("3", masks()["pixel"])])], tmp_path / "set")
    data = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert data == {"train": "images/train", "val": "images/train", "names": dict(enumerate(NAMES))}
    assert (folder / "labels/train/synthetic_pixel.txt").read_text().startswith("3 ")


def test_yolo_survives_a_trainer_that_draws_outlines_on_a_larger_image(tmp_path: Path) -> None:
    """Ultralytics truncates to whole px and fills with OpenCV, outline included, after it has scaled to 640 px or so."""
    scale, found = 10, {}
    for name, mask in masks().items():
        folder = written("yolo", [picture(name, [(NAMES[0], mask)])], tmp_path / name)
        shares = (folder / f"labels/train/synthetic_{name}.txt").read_text().split()[1:]
        points = (np.array(shares, float).reshape(-1, 2) * (WIDTH * scale, HEIGHT * scale)).astype(np.int32)
        filled = cv2.fillPoly(np.zeros((HEIGHT * scale, WIDTH * scale), np.uint8), [points], 1)
        wanted = np.kron(mask, np.ones((scale, scale), np.uint8))
        found[name] = (filled & wanted).sum() / (filled | wanted).sum()
    assert found["all"] > 0.99 and found["rings"] > 0.9 and found["parts"] > 0.9
    assert found["pixel"] > 0.8 and found["thin"] > 0.8  # a pixel is 11 x 11 there, not 10 x 10


@pytest.mark.parametrize("form", ["cvat", "label-studio"])
def test_a_class_that_xml_cannot_hold_is_refused(form: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"'pit\\x07'.*Rename the class"):
        WRITERS[form](tmp_path, [], ["crack", "pit\x07"])
    assert not list(tmp_path.iterdir())


def test_a_class_longer_than_cvat_allows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="65 characters, 64 are allowed"):
        WRITERS["cvat"](tmp_path, [], ["x" * 65])


def test_brush_rle_is_that_of_label_studio_to_the_byte() -> None:
    """As `mask2rle` of label-studio-sdk 2.1.2 has it."""
    mask = np.zeros((3, 40), bool)
    mask[0, 1:4] = mask[1, 5:38] = True
    theirs = [0, 0, 1, 224, 57, 27, 252, 96, 22, 255, 245, 24, 6, 131, 255, 212, 224, 0]
    assert brush_rle(mask) == theirs


def test_the_reader_of_polygons_counts_edges() -> None:
    """The oracle itself: a triangle that encloses three pixels' middles of a 4 x 4 image."""
    found = inside(np.array([[0, 0], [2.2, 0], [0, 2.2]]), 4, 4)
    assert np.argwhere(found).tolist() == [[0, 0], [0, 1], [1, 0]]
