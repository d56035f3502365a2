"""COCO: every form of a segmentation, and every fault a row."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.ingest import ingest
from defect_pipeline.imaging.io import oriented
from defect_pipeline_tests.imaging.ingest.helpers import (
    H,
    W,
    annotation_of,
    id_of,
    picture,
    polygon,
    reasons_by_path,
    rle,
    spot,
)

Write = Callable[..., Path]


def test_coco_forms_agree(coco: Write) -> None:
    dataset = ingest(coco())
    assert dataset.rejected.empty and dataset.categories == ("crack", "pit")
    assert dataset.images["defect_class"].tolist() == ["pit", "pit", "pit", "crack", ""]
    assert dataset.instances["source"].tolist() == ["polygon", "rle", "rle", "rle"]
    assert dataset.instances["iscrowd"].tolist() == [0, 0, 1, 0]
    for image_id in range(1, 5):
        np.testing.assert_array_equal(dataset.masks(image_id)[0][1], spot())
    assert dataset.instances["area"].tolist() == [40] * 4 and dataset.instances["bbox"].tolist() == [[6, 4, 8, 5]] * 4


def test_packed_rle_is_unpacked_as_pycocotools_does(coco: Write) -> None:
    noise = np.random.default_rng(1).random((H, W)) < 0.4
    dataset = ingest(coco(annotations=(annotation_of(9, 5, rle(noise, packed=True)),)))
    np.testing.assert_array_equal(dataset.class_mask(5, "pit"), noise)


def test_coco_by_another_name_below_images_with_defect_free(coco: Write) -> None:
    root = coco()
    (root / "annotations.json").rename(root / "export.json")
    (root / "images").mkdir()
    for number in range(1, 6):
        (root / f"{number}.png").rename(root / "images" / f"{number}.png")
    picture(root / "defect_free" / "line2" / "x.png")
    picture(root / "stray.png")
    dataset = ingest(root)
    assert {dataset.images.at[i, "path"] for i in dataset.defect_free()} == {"images/5.png", "defect_free/line2/x.png"}
    assert "not listed" in reasons_by_path(dataset)["stray.png"]
    (root / "more.json").write_text((root / "export.json").read_text())
    with pytest.raises(PipelineError, match="export.json and more.json"):
        ingest(root)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (annotation_of(9, 1, polygon(1, 1, 3, 3), category=7), "unknown category id 7"),
        (annotation_of(1, 1, polygon(1, 1, 3, 3)), "duplicate annotation id 1"),
        (annotation_of(9, 1, [[1, 1, 5, 5]]), "fewer than 3 points"),
        (annotation_of(9, 1, [[1, 1, 5, 5, 9, 9]]), "zero area"),
        (annotation_of(9, 1, [[1, 1, float("nan"), 5, 9, 5]]), "NaN"),
        (annotation_of(9, 1, [[1, 1, 1e9, 5, 9, 5]]), "far outside"),
        (annotation_of(9, 1, [[40, 40, 45, 40, 45, 45]]), "covers no pixel"),
        (annotation_of(9, 1, [[1, "a", 2, 3, 4, 5]]), "annotation 9"),
        (annotation_of(9, 1, []), "no segmentation"),
        (annotation_of(9, 1, None), "no segmentation"),
        (annotation_of(9, 1, {"size": [H, W], "counts": [10, 5]}), "do not add up"),
        (annotation_of(9, 1, {"size": [H, W], "counts": [10, -5, H * W - 5]}), "do not add up"),
        (annotation_of(9, 1, {"size": [H, W], "counts": "~~~"}), "damaged"),
        (annotation_of(9, 1, {"size": [H, W], "counts": "PPPPP"}), "cut off"),
        (annotation_of(9, 1, {"size": [W, H], "counts": [H * W]}), "RLE of size"),
        (annotation_of(9, 1, {"size": [H, W], "counts": [H * W]}), "covers no pixel"),
    ],
)
def test_a_bad_annotation_is_listed_and_the_good_one_kept(coco: Write, annotation: dict, reason: str) -> None:
    dataset = ingest(coco(annotations=(annotation,)))
    assert list(reasons_by_path(dataset)) == ["1.png"] and reason in reasons_by_path(dataset)["1.png"]
    assert [name for name, _ in dataset.masks(1)] == ["pit"] and len(dataset.images) == 5


def test_an_image_with_only_bad_annotations_does_not_pass_for_defect_free(coco: Write) -> None:
    dataset = ingest(coco(annotations=(annotation_of(9, 5, polygon(1, 1, 3, 3), category=7),)))
    assert "5.png" not in set(dataset.images["path"]) and not dataset.defect_free()
    assert dataset.rejected["reason"].str.contains("none of its annotations").any()


def test_coco_images_that_cannot_be_used(coco: Write, tmp_path: Path) -> None:
    for name in ("6.png", "7.png", "8.png"):
        picture(tmp_path / name)
    outside = tmp_path.parent / "outside.png"
    picture(outside)
    (tmp_path / "link.png").symlink_to(outside)
    images = (
        {"id": 6, "file_name": "6.png", "width": 99, "height": H},
        {"id": 7, "file_name": "7.png"},
        {"id": 7, "file_name": "8.png"},
        {"id": 10, "file_name": "../outside.png"},
        {"id": 11, "file_name": str(outside)},
        {"id": 12, "file_name": "link.png"},
        {"id": 13, "file_name": "gone.png"},
        {"id": 14, "file_name": "C:\\photos\\x.png"},
        {"id": 15},
        {"id": 16, "file_name": "a\0b.png"},
    )
    annotations = (annotation_of(9, 6, polygon(1, 1, 3, 3)), annotation_of(10, 99, polygon(1, 1, 3, 3)))
    dataset = ingest(coco(images=images, annotations=annotations))
    rows = reasons_by_path(dataset)
    assert len(dataset.images) == 5
    assert "99x24" in rows["6.png"]
    assert "duplicate image id 7" in rows["7.png"] and "duplicate image id 7" in rows["8.png"]
    assert "outside" in rows["../outside.png"] and "absolute" in rows[str(outside)]
    assert "outside" in rows["link.png"] and "missing" in rows["gone.png"] and "absolute" in rows["C:\\photos\\x.png"]
    reasons = " ".join(dataset.rejected["reason"])
    assert "no image has the id 99" in reasons and "entry 14 of `images`" in reasons


def test_an_annotated_image_in_defect_free_is_a_contradiction(coco: Write, tmp_path: Path) -> None:
    picture(tmp_path / "defect_free" / "x.png")
    image = {"id": 6, "file_name": "defect_free/x.png"}
    dataset = ingest(coco(images=(image,), annotations=(annotation_of(9, 6, polygon(1, 1, 3, 3)),)))
    assert "defect_free/x.png" in reasons_by_path(dataset) and "defect_free/x.png" not in set(dataset.images["path"])


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('{"images": [],\n "annotations": [,]}')
    with pytest.raises(PipelineError, match=r"annotations.json: is not valid JSON \(line 2"):
        ingest(tmp_path)
    (tmp_path / "annotations.json").write_text('{"images": {}}')
    with pytest.raises(PipelineError, match="lacks one of COCO's lists"):
        ingest(tmp_path)


@pytest.mark.parametrize(("share", "reason"), [(0, "is empty (0 bytes)"), (0.5, "is not valid JSON (line 1")])
@pytest.mark.parametrize("name", ["annotations.json", "instances.json"])
def test_annotations_that_are_half_written_are_named(coco: Write, name: str, share: float, reason: str) -> None:
    root = coco()
    content = (root / "annotations.json").read_bytes()
    (root / "annotations.json").unlink()
    (root / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PipelineError) as caught:
        ingest(root)
    assert f"{name}: {reason}" in str(caught.value)
    (root / name).write_bytes(content)
    assert len(ingest(root).images) == 5


@pytest.mark.parametrize("displayed", [True, False])
def test_coco_on_a_rotated_photograph(coco: Write, tmp_path: Path, displayed: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "turned.jpg", exif=exif)  # stored W x H, displayed H x W
    drawn = spot(2, 3, 4, 6, (W, H) if displayed else (H, W))
    size = {"width": drawn.shape[1], "height": drawn.shape[0]}
    image = {"id": 6, "file_name": "turned.jpg"} | size
    dataset = ingest(coco(images=(image,), annotations=(annotation_of(9, 6, rle(drawn, packed=True)),)))
    image_id = id_of(dataset, "turned.jpg")
    assert dataset.image(image_id).shape[:2] == (W, H) == dataset.masks(image_id)[0][1].shape
    np.testing.assert_array_equal(dataset.class_mask(image_id, "pit"), drawn if displayed else oriented(drawn, 6))


def test_coco_reruns_read_annotations_anew_but_no_pixels(coco: Write, opened: list[str]) -> None:
    first = ingest(coco())
    document = json.loads((first.root / "annotations.json").read_text())
    document["annotations"].append(annotation_of(9, 5, polygon(1, 1, 3, 3)))
    (first.root / "annotations.json").write_text(json.dumps(document))
    opened.clear()
    second = ingest(first.root, first)
    assert not opened and second.defect_free() == [] and second.digest != first.digest
