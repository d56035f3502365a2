"""Three layouts, every fault a row, and a rerun that opens only what changed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.ingest import ingest, scan
from defect_pipeline.imaging.io import oriented

REAL = Path(__file__).parents[3] / "shared" / "data"
H, W = 24, 32


def _spot(top: int = 4, left: int = 6, height: int = 5, width: int = 8, shape: tuple[int, int] = (H, W)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _picture(path: Path, shade: int = 90, size: tuple[int, int] = (W, H), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path, **options)


def _drawn(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def _rows(dataset: Dataset) -> dict[str, str]:
    return dict(zip(dataset.rejected["path"], dataset.rejected["reason"], strict=True))


def _id(dataset: Dataset, path: str) -> int:
    return dataset.images.index[dataset.images["path"] == path].item()


def _same(one: Dataset, other: Dataset) -> None:
    for table in ("images", "instances", "rejected"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table))
    assert one.digest == other.digest


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


# --- COCO -----------------------------------------------------------------------------------------


def _rle(mask: np.ndarray, packed: bool) -> dict[str, Any]:
    if packed:
        counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
        return {"size": list(mask.shape), "counts": counts}
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


def _polygon(top: int, left: int, height: int, width: int) -> list[list[float]]:
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def _annotation(number: int, image: int, segmentation: Any, category: int = 1, **extra: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation} | extra


Write = Callable[..., Path]


@pytest.fixture
def coco(tmp_path: Path) -> Write:
    """Writes a sound COCO folder of four defective images and a clean one; arguments are added to its lists."""

    def write(images: tuple = (), annotations: tuple = (), categories: tuple = ()) -> Path:
        document: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
        for number in range(1, 6):
            _picture(tmp_path / f"{number}.png", 40 * number)
            document["images"].append({"id": number, "file_name": f"{number}.png", "width": W, "height": H})
        document["annotations"] = [
            _annotation(1, 1, _polygon(4, 6, 5, 8)),
            _annotation(2, 2, _rle(_spot(), packed=False)),
            _annotation(3, 3, _rle(_spot(), packed=True), iscrowd=1),
            _annotation(4, 4, _rle(_spot(), packed=True), category=2),
            *annotations,
        ]
        document["images"] += images
        document["categories"] = [{"id": 1, "name": "pit"}, {"id": 2, "name": "crack"}, *categories]
        (tmp_path / "annotations.json").write_text(json.dumps(document))
        return tmp_path

    return write


def test_coco_forms_agree(coco: Write) -> None:
    dataset = ingest(coco())
    assert dataset.rejected.empty and dataset.categories == ("crack", "pit")
    assert dataset.images["defect_class"].tolist() == ["pit", "pit", "pit", "crack", ""]
    assert dataset.instances["source"].tolist() == ["polygon", "rle", "rle", "rle"]
    assert dataset.instances["iscrowd"].tolist() == [0, 0, 1, 0]
    for image_id in range(1, 5):
        np.testing.assert_array_equal(dataset.masks(image_id)[0][1], _spot())
    assert dataset.instances["area"].tolist() == [40] * 4 and dataset.instances["bbox"].tolist() == [[6, 4, 8, 5]] * 4


def test_packed_rle_is_unpacked_as_pycocotools_does(coco: Write) -> None:
    noise = np.random.default_rng(1).random((H, W)) < 0.4
    dataset = ingest(coco(annotations=(_annotation(9, 5, _rle(noise, packed=True)),)))
    np.testing.assert_array_equal(dataset.class_mask(5, "pit"), noise)


def test_coco_by_another_name_below_images_with_defect_free(coco: Write) -> None:
    root = coco()
    (root / "annotations.json").rename(root / "export.json")
    (root / "images").mkdir()
    for number in range(1, 6):
        (root / f"{number}.png").rename(root / "images" / f"{number}.png")
    _picture(root / "defect_free" / "line2" / "x.png")
    _picture(root / "stray.png")
    dataset = ingest(root)
    assert {dataset.images.at[i, "path"] for i in dataset.defect_free()} == {"images/5.png", "defect_free/line2/x.png"}
    assert "not listed" in _rows(dataset)["stray.png"]
    (root / "more.json").write_text((root / "export.json").read_text())
    with pytest.raises(PipelineError, match="export.json and more.json"):
        ingest(root)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (_annotation(9, 1, _polygon(1, 1, 3, 3), category=7), "unknown category id 7"),
        (_annotation(1, 1, _polygon(1, 1, 3, 3)), "duplicate annotation id 1"),
        (_annotation(9, 1, [[1, 1, 5, 5]]), "fewer than 3 points"),
        (_annotation(9, 1, [[1, 1, 5, 5, 9, 9]]), "zero area"),
        (_annotation(9, 1, [[1, 1, float("nan"), 5, 9, 5]]), "NaN"),
        (_annotation(9, 1, [[1, 1, 1e9, 5, 9, 5]]), "far outside"),
        (_annotation(9, 1, [[40, 40, 45, 40, 45, 45]]), "covers no pixel"),
        (_annotation(9, 1, [[1, "a", 2, 3, 4, 5]]), "annotation 9"),
        (_annotation(9, 1, []), "no segmentation"),
        (_annotation(9, 1, None), "no segmentation"),
        (_annotation(9, 1, {"size": [H, W], "counts": [10, 5]}), "do not add up"),
        (_annotation(9, 1, {"size": [H, W], "counts": [10, -5, H * W - 5]}), "do not add up"),
        (_annotation(9, 1, {"size": [H, W], "counts": "~~~"}), "damaged"),
        (_annotation(9, 1, {"size": [H, W], "counts": "PPPPP"}), "cut off"),
        (_annotation(9, 1, {"size": [W, H], "counts": [H * W]}), "RLE of size"),
        (_annotation(9, 1, {"size": [H, W], "counts": [H * W]}), "covers no pixel"),
    ],
)
def test_a_bad_annotation_is_listed_and_the_good_one_kept(coco: Write, annotation: dict, reason: str) -> None:
    dataset = ingest(coco(annotations=(annotation,)))
    assert list(_rows(dataset)) == ["1.png"] and reason in _rows(dataset)["1.png"]
    assert [name for name, _ in dataset.masks(1)] == ["pit"] and len(dataset.images) == 5


def test_an_image_with_only_bad_annotations_does_not_pass_for_defect_free(coco: Write) -> None:
    dataset = ingest(coco(annotations=(_annotation(9, 5, _polygon(1, 1, 3, 3), category=7),)))
    assert "5.png" not in set(dataset.images["path"]) and not dataset.defect_free()
    assert dataset.rejected["reason"].str.contains("none of its annotations").any()


def test_coco_images_that_cannot_be_used(coco: Write, tmp_path: Path) -> None:
    for name in ("6.png", "7.png", "8.png"):
        _picture(tmp_path / name)
    outside = tmp_path.parent / "outside.png"
    _picture(outside)
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
    annotations = (_annotation(9, 6, _polygon(1, 1, 3, 3)), _annotation(10, 99, _polygon(1, 1, 3, 3)))
    dataset = ingest(coco(images=images, annotations=annotations))
    rows = _rows(dataset)
    assert len(dataset.images) == 5
    assert "99x24" in rows["6.png"]
    assert "duplicate image id 7" in rows["7.png"] and "duplicate image id 7" in rows["8.png"]
    assert "outside" in rows["../outside.png"] and "absolute" in rows[str(outside)]
    assert "outside" in rows["link.png"] and "missing" in rows["gone.png"] and "absolute" in rows["C:\\photos\\x.png"]
    reasons = " ".join(dataset.rejected["reason"])
    assert "no image has the id 99" in reasons and "entry 14 of `images`" in reasons


def test_an_annotated_image_in_defect_free_is_a_contradiction(coco: Write, tmp_path: Path) -> None:
    _picture(tmp_path / "defect_free" / "x.png")
    image = {"id": 6, "file_name": "defect_free/x.png"}
    dataset = ingest(coco(images=(image,), annotations=(_annotation(9, 6, _polygon(1, 1, 3, 3)),)))
    assert "defect_free/x.png" in _rows(dataset) and "defect_free/x.png" not in set(dataset.images["path"])


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('{"images": [],\n "annotations": [,]}')
    with pytest.raises(PipelineError, match=r"annotations.json is not valid JSON \(line 2"):
        ingest(tmp_path)
    (tmp_path / "annotations.json").write_text('{"images": {}}')
    with pytest.raises(PipelineError, match="lacks one of COCO's lists"):
        ingest(tmp_path)


@pytest.mark.parametrize("displayed", [True, False])
def test_coco_on_a_rotated_photograph(coco: Write, tmp_path: Path, displayed: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture(tmp_path / "turned.jpg", exif=exif)  # stored W x H, displayed H x W
    drawn = _spot(2, 3, 4, 6, (W, H) if displayed else (H, W))
    size = {"width": drawn.shape[1], "height": drawn.shape[0]}
    image = {"id": 6, "file_name": "turned.jpg"} | size
    dataset = ingest(coco(images=(image,), annotations=(_annotation(9, 6, _rle(drawn, packed=True)),)))
    image_id = _id(dataset, "turned.jpg")
    assert dataset.image(image_id).shape[:2] == (W, H) == dataset.masks(image_id)[0][1].shape
    np.testing.assert_array_equal(dataset.class_mask(image_id, "pit"), drawn if displayed else oriented(drawn, 6))


def test_coco_reruns_read_annotations_anew_but_no_pixels(coco: Write, opened: list[str]) -> None:
    first = ingest(coco())
    document = json.loads((first.root / "annotations.json").read_text())
    document["annotations"].append(_annotation(9, 5, _polygon(1, 1, 3, 3)))
    (first.root / "annotations.json").write_text(json.dumps(document))
    opened.clear()
    second = ingest(first.root, first)
    assert not opened and second.defect_free() == [] and second.digest != first.digest


# --- class folders --------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two defect classes of three images and a clean class of two, as image + mask of the same stem."""
    for number in range(3):
        _picture(tmp_path / "MT_Pit" / "Imgs" / f"p{number}.jpg", 50 + number)
        _drawn(tmp_path / "MT_Pit" / "Imgs" / f"p{number}.png", _spot() | _spot(15, 20, 3, 3))
        _picture(tmp_path / "MT_Fray" / f"f{number}.jpg", 80 + number)
        _drawn(tmp_path / "MT_Fray" / f"f{number}.png", _spot(0, 0, 9, 9))
    for number in range(2):
        _picture(tmp_path / "MT_Free" / "Imgs" / f"c{number}.jpg", 110 + number)
        _drawn(tmp_path / "MT_Free" / "Imgs" / f"c{number}.png", np.zeros((H, W)))
    return tmp_path


def test_class_folders(folders: Path) -> None:
    dataset = ingest(folders)
    assert dataset.rejected.empty and dataset.categories == ("MT_Fray", "MT_Pit")
    assert dataset.images["path"].is_monotonic_increasing and dataset.images.index.tolist() == list(range(1, 9))
    assert dataset.images["defect_class"].value_counts().to_dict() == {"MT_Fray": 3, "MT_Pit": 3, "": 2}
    masks = dataset.masks(_id(dataset, "MT_Pit/Imgs/p0.jpg"))
    np.testing.assert_array_equal(masks[0][1], _spot())
    np.testing.assert_array_equal(masks[1][1], _spot(15, 20, 3, 3))
    _same(ingest(folders), dataset)


def test_masks_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for number in range(2):
        _picture(tmp_path / "pit" / "images" / f"{number}.png")
        _drawn(tmp_path / "pit" / "masks" / f"{number}.png", _spot())
    dataset = ingest(tmp_path)
    assert dataset.images["path"].tolist() == ["pit/images/0.png", "pit/images/1.png"] and dataset.rejected.empty


def test_faults_in_class_folders(folders: Path) -> None:
    pit, fray = folders / "MT_Pit" / "Imgs", folders / "MT_Fray"
    for name in ("truncated", "other_size", "empty", "lone", "twice", "zero", "bad_mask"):
        _picture(pit / f"{name}.jpg")
    for name in ("truncated", "twice", "zero", "orphan"):
        _drawn(pit / f"{name}.png", _spot())
    (pit / "truncated.jpg").write_bytes((pit / "truncated.jpg").read_bytes()[:-40])
    (pit / "zero.jpg").write_bytes(b"")
    (pit / "bad_mask.png").write_bytes(b"no picture")
    _drawn(pit / "other_size.png", _spot(shape=(H + 1, W)))
    _drawn(pit / "empty.png", np.zeros((H, W)))
    _picture(pit / "twice.bmp")
    _picture(folders / "loose.jpg")
    (fray / "away.jpg").symlink_to("/etc/hostname")
    _drawn(fray / "away.png", _spot())
    (fray / "folder").symlink_to("/etc")
    dataset = ingest(folders)
    rows = _rows(dataset)
    found = {path.removeprefix("MT_Pit/Imgs/"): reason for path, reason in rows.items()}
    assert "truncated" in found["truncated.jpg"] and "0 bytes" in found["zero.jpg"]
    assert "other_size.png is drawn for 32x25 px" in found["other_size.jpg"] and "empty mask" in found["empty.jpg"]
    assert "without a mask" in found["lone.jpg"] and "not a picture" in found["bad_mask.jpg"]
    assert {"twice.jpg", "twice.bmp", "twice.png", "orphan.png", "loose.jpg"} <= set(found)
    assert "outside" in rows["MT_Fray/away.jpg"] and "link to a folder" in rows["MT_Fray/folder"]
    assert len(dataset.rejected) == 13 and len(dataset.images) == 8
    assert (dataset.rejected["remedy"] != "").all()


def test_defect_free_folder_needs_no_masks(folders: Path) -> None:
    shutil.rmtree(folders / "MT_Free")
    _picture(folders / "defect_free" / "plain.jpg")
    _picture(folders / "defect_free" / "paired.jpg")
    _drawn(folders / "defect_free" / "paired.png", np.zeros((H, W)))
    _picture(folders / "defect_free" / "marked.jpg")
    _drawn(folders / "defect_free" / "marked.png", _spot())
    dataset = ingest(folders)
    clean = [dataset.images.at[image_id, "path"] for image_id in dataset.defect_free()]
    assert clean == ["defect_free/paired.jpg", "defect_free/plain.jpg"]
    assert "of no class" in _rows(dataset)["defect_free/marked.jpg"]


@pytest.mark.parametrize("displayed", [True, False])
def test_mask_of_a_rotated_photograph(folders: Path, displayed: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    _picture(folders / "MT_Fray" / "turned.jpg", exif=exif)
    drawn = _spot(2, 3, 4, 6, (W, H) if displayed else (H, W))
    _drawn(folders / "MT_Fray" / "turned.png", drawn)
    dataset = ingest(folders)
    union = dataset.class_mask(_id(dataset, "MT_Fray/turned.jpg"), "MT_Fray")
    np.testing.assert_array_equal(union, drawn if displayed else oriented(drawn, 8))


def test_reruns_open_only_what_changed(
    folders: Path, opened: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ticks: list[tuple[int, int]] = []
    first = ingest(folders, on_progress=lambda done, total: ticks.append((done, total)))
    assert len(opened) == 16 and ticks == [(done, 8) for done in range(1, 9)]  # image and mask of each
    store = tmp_path_factory.mktemp("store")
    first.save(store)

    opened.clear()
    _same(ingest(folders, Dataset.load(store, folders)), first)
    assert not opened

    _picture(folders / "MT_Fray" / "f0.jpg", 200)  # its mask is read with it
    _drawn(folders / "MT_Pit" / "Imgs" / "p0.png", _spot())
    _picture(folders / "MT_Fray" / "a_new.jpg")
    _drawn(folders / "MT_Fray" / "a_new.png", _spot())
    (folders / "MT_Pit" / "Imgs" / "p2.jpg").unlink()
    (folders / "MT_Pit" / "Imgs" / "p2.png").unlink()
    second = ingest(folders, first)
    assert len(opened) == 6
    _same(second, ingest(folders))
    assert len(second.masks(_id(second, "MT_Pit/Imgs/p0.jpg"))) == 1

    opened.clear()
    os.utime(folders / "MT_Fray" / "f1.jpg", ns=(5, 5))
    assert ingest(folders, second).digest == second.digest and len(opened) == 2


def test_a_mask_painted_in_the_clean_class_makes_it_a_defect_class(folders: Path) -> None:
    first = ingest(folders)
    _drawn(folders / "MT_Free" / "Imgs" / "c0.png", _spot())
    second = ingest(folders, first)
    assert "MT_Free" in second.categories and "empty mask" in _rows(second)["MT_Free/Imgs/c1.jpg"]


# --- Pascal VOC -----------------------------------------------------------------------------------


def _xml(path: Path, *boxes: tuple[Any, ...], filename: str = "stale.jpg", size: tuple[int, int] = (W, H)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = ""
    for name, *corners in boxes:
        box = "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, corners, strict=True))
        objects += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    width, height = size
    head = f"<filename>{filename}</filename><size><width>{width}</width><height>{height}</height></size>"
    path.write_text(f"<annotation>{head}{objects}</annotation>")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """a, b: masks; c: boxes alone; d: no objects. A box of 1-based inclusive corners around each part."""
    for stem in "abcd":
        _picture(tmp_path / "JPEGImages" / f"{stem}.jpg")
    boxes = (("pit", 7, 5, 14, 9), ("scratch", 21, 16, 23, 18))
    _xml(tmp_path / "Annotations" / "a.xml", *boxes)
    _xml(tmp_path / "Annotations" / "b.xml", *boxes)
    _xml(tmp_path / "Annotations" / "c.xml", boxes[0])
    _xml(tmp_path / "Annotations" / "d.xml")
    _drawn(tmp_path / "Masks" / "a.png", _spot(5, 6, 3, 7) | _spot(16, 20, 2, 2) | _spot(19, 24, 1, 1))
    _drawn(tmp_path / "Masks" / "b.png", _spot(5, 6, 3, 7))
    return tmp_path


def test_voc(voc: Path) -> None:
    dataset = ingest(voc)
    assert dataset.rejected.empty and dataset.categories == ("pit", "scratch")
    assert dataset.images["defect_class"].tolist() == ["scratch", "scratch", "pit", ""]
    # the third part touches no box: it goes to the nearest
    assert [name for name, _ in dataset.masks(1)] == ["pit", "scratch", "scratch"]
    rows = dataset.instances[dataset.instances["image_id"] == 2]
    assert rows["source"].tolist() == ["mask", "box"]  # nothing is masked in b's second box: it is filled
    np.testing.assert_array_equal(dataset.class_mask(2, "scratch"), _spot(15, 20, 3, 3))
    np.testing.assert_array_equal(dataset.class_mask(3, "pit"), _spot())


def test_voc_folder_names_in_capitals_and_reruns(voc: Path, opened: list[str]) -> None:
    (voc / "Annotations").rename(voc / "ANNOTATIONS")
    (voc / "JPEGImages").rename(voc / "IMAGES")
    (voc / "Masks").rename(voc / "MASKS")
    first = ingest(voc)
    assert len(first.images) == 4 and len(opened) == 6
    _same(ingest(voc, first), first)
    _xml(voc / "ANNOTATIONS" / "a.xml", ("burn", 1, 1, W, H))
    second = ingest(voc, first)
    assert [name for name, _ in second.masks(1)] == ["burn"] * 3 and len(opened) == 6


def test_faults_in_voc(voc: Path, tmp_path: Path) -> None:
    notes = voc / "Annotations"
    for stem in ("nan", "empty", "unnoted", "size", "broken"):
        _picture(voc / "JPEGImages" / f"{stem}.jpg")
    _xml(notes / "nan.xml", ("pit", "nan", 1, 9, 9), ("pit", 2, 2, 9, 9), ("", 2, 2, 9, 9), ("pit", 9, 9, 5, 5))
    _xml(notes / "empty.xml", ("pit", 2, 2, 9, 9))
    _drawn(voc / "Masks" / "empty.png", np.zeros((H, W)))
    _xml(notes / "size.xml", ("pit", 2, 2, 9, 9), size=(W, H + 9))
    _xml(notes / "away.xml", ("pit", 2, 2, 9, 9), filename="../../x.jpg")
    _xml(notes / "gone.xml", ("pit", 2, 2, 9, 9), filename="gone.jpg")
    (notes / "broken.xml").write_text("<annotation>\n<object></annotation>")
    _drawn(voc / "Masks" / "orphan.png", _spot())
    dataset = ingest(voc)
    rows = dataset.rejected.groupby("path")["reason"].agg(" | ".join).to_dict()
    assert {"box 1", "box 3", "box 4"} <= {part[:5] for part in rows["JPEGImages/nan.jpg"].split(" | ")}
    assert len(dataset.masks(_id(dataset, "JPEGImages/nan.jpg"))) == 1
    assert "empty mask" in rows["JPEGImages/empty.jpg"] and "32x33" in rows["JPEGImages/size.jpg"]
    assert "outside" in rows["../../x.jpg"] and "missing" in rows["gone.jpg"]
    assert "line 2" in rows["Annotations/broken.xml"] and "no usable XML" in rows["JPEGImages/unnoted.jpg"]
    assert "Masks/orphan.png" in rows and len(dataset.images) == 5


# --- the folder as a whole ------------------------------------------------------------------------


def test_a_folder_of_no_layout_is_told_the_three(tmp_path: Path) -> None:
    _picture(tmp_path / "x.png")
    with pytest.raises(PipelineError, match="COCO.*class.*Pascal VOC"):
        ingest(tmp_path)
    with pytest.raises(PipelineError, match="not a folder"):
        ingest(tmp_path / "gone")


def test_too_little_left_stops_with_the_first_reasons(folders: Path) -> None:
    assert ingest(folders, min_defective=3)
    with pytest.raises(PipelineError, match="no defect class is left with 4"):
        ingest(folders, min_defective=4)
    for path in folders.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(PipelineError, match=r"8 files.*f0.jpg: is empty"):
        ingest(folders)


def test_defect_class_is_the_rarest_of_the_image(voc: Path) -> None:
    _picture(voc / "JPEGImages" / "e.jpg")
    _xml(voc / "Annotations" / "e.xml", ("scratch", 2, 2, 9, 9))
    _picture(voc / "JPEGImages" / "f.jpg")
    _xml(voc / "Annotations" / "f.xml", ("scratch", 2, 2, 9, 9))
    dataset = ingest(voc)  # scratch: a b e f, pit: a b c
    assert dataset.images["defect_class"].tolist() == ["pit", "pit", "pit", "", "scratch", "scratch"]


def test_scan_sees_what_matters(folders: Path) -> None:
    before = scan(folders)
    (folders / "notes.txt").write_text("x")
    (folders / ".hidden").mkdir()
    _picture(folders / ".hidden" / "x.png")
    assert scan(folders) == before and len(before) == 16
    _picture(folders / "MT_Fray" / "f0.jpg", 99)
    (folders / "MT_Pit" / "Imgs" / "p1.jpg").unlink()
    after = scan(folders)
    assert {path for path in before | after if before.get(path) != after.get(path)} == {
        "MT_Fray/f0.jpg",
        "MT_Pit/Imgs/p1.jpg",
    }


def _real(name: str, tmp_path: Path, keep: Callable[[Path], bool]) -> Path:
    """A copy of some of the real files, to keep the test short."""
    if not (REAL / name).is_dir():
        pytest.skip(f"the real images are not here: no {name} in {REAL}")
    for path in (REAL / name).rglob("*.*"):
        if keep(path):
            target = tmp_path / path.relative_to(REAL / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return tmp_path


def test_magnetic_tile(tmp_path: Path) -> None:
    root = _real("magnetic-tile", tmp_path, lambda path: "MT_Free" not in path.parts or path.stem.endswith("00"))
    dataset = ingest(root)
    assert dataset.categories == ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")
    assert dataset.images["defect_class"].value_counts()[["MT_Blowhole", "MT_Uneven"]].tolist() == [81, 74]
    assert {dataset.images.at[image_id, "path"].split("/")[0] for image_id in dataset.defect_free()} == {"MT_Free"}
    assert len(dataset.rejected) == 4 and dataset.rejected["path"].str.startswith("MT_Uneven").all()
    assert dataset.rejected["reason"].str.startswith("empty mask").all()


def test_neu_det(tmp_path: Path) -> None:
    dataset = ingest(_real("neu-det", tmp_path, lambda path: path.stem.endswith("7")))
    classes = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    assert dataset.categories == classes and dataset.rejected.empty and not dataset.defect_free()
    assert set(dataset.instances["source"]) == {"mask", "box"}
