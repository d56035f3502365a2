"""Class folders: pairs of image and mask, and what is wrong with those that are none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from defect_pipeline.imaging.ingest import ingest
from defect_pipeline.imaging.io import oriented
from defect_pipeline_tests.imaging.ingest.helpers import (
    H,
    W,
    assert_same,
    drawn_mask,
    id_of,
    picture,
    reasons_by_path,
    spot,
)


def test_class_folders(folders: Path) -> None:
    dataset = ingest(folders)
    assert dataset.rejected.empty and dataset.categories == ("MT_Fray", "MT_Pit")
    assert dataset.images["path"].is_monotonic_increasing and dataset.images.index.tolist() == list(range(1, 9))
    assert dataset.images["defect_class"].value_counts().to_dict() == {"MT_Fray": 3, "MT_Pit": 3, "": 2}
    masks = dataset.masks(id_of(dataset, "MT_Pit/Imgs/p0.jpg"))
    np.testing.assert_array_equal(masks[0][1], spot())
    np.testing.assert_array_equal(masks[1][1], spot(15, 20, 3, 3))
    assert_same(ingest(folders), dataset)


def test_masks_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "pit" / "images" / f"{number}.png")
        drawn_mask(tmp_path / "pit" / "masks" / f"{number}.png", spot())
    dataset = ingest(tmp_path)
    assert dataset.images["path"].tolist() == ["pit/images/0.png", "pit/images/1.png"] and dataset.rejected.empty


def test_faults_in_class_folders(folders: Path) -> None:
    pit, fray = folders / "MT_Pit" / "Imgs", folders / "MT_Fray"
    for name in ("truncated", "other_size", "empty", "lone", "twice", "zero", "bad_mask"):
        picture(pit / f"{name}.jpg")
    for name in ("truncated", "twice", "zero", "orphan"):
        drawn_mask(pit / f"{name}.png", spot())
    (pit / "truncated.jpg").write_bytes((pit / "truncated.jpg").read_bytes()[:-40])
    (pit / "zero.jpg").write_bytes(b"")
    (pit / "bad_mask.png").write_bytes(b"no picture")
    drawn_mask(pit / "other_size.png", spot(shape=(H + 1, W)))
    drawn_mask(pit / "empty.png", np.zeros((H, W)))
    picture(pit / "twice.bmp")
    picture(folders / "loose.jpg")
    (fray / "away.jpg").symlink_to("/etc/hostname")
    drawn_mask(fray / "away.png", spot())
    (fray / "folder").symlink_to("/etc")
    dataset = ingest(folders)
    rows = reasons_by_path(dataset)
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
    picture(folders / "defect_free" / "plain.jpg")
    picture(folders / "defect_free" / "paired.jpg")
    drawn_mask(folders / "defect_free" / "paired.png", np.zeros((H, W)))
    picture(folders / "defect_free" / "marked.jpg")
    drawn_mask(folders / "defect_free" / "marked.png", spot())
    dataset = ingest(folders)
    clean = [dataset.images.at[image_id, "path"] for image_id in dataset.defect_free()]
    assert clean == ["defect_free/paired.jpg", "defect_free/plain.jpg"]
    assert "of no class" in reasons_by_path(dataset)["defect_free/marked.jpg"]


@pytest.mark.parametrize("displayed", [True, False])
def test_mask_of_a_rotated_photograph(folders: Path, displayed: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    picture(folders / "MT_Fray" / "turned.jpg", exif=exif)
    drawn = spot(2, 3, 4, 6, (W, H) if displayed else (H, W))
    drawn_mask(folders / "MT_Fray" / "turned.png", drawn)
    dataset = ingest(folders)
    union = dataset.class_mask(id_of(dataset, "MT_Fray/turned.jpg"), "MT_Fray")
    np.testing.assert_array_equal(union, drawn if displayed else oriented(drawn, 8))


def test_a_mask_painted_in_the_clean_class_makes_it_a_defect_class(folders: Path) -> None:
    first = ingest(folders)
    drawn_mask(folders / "MT_Free" / "Imgs" / "c0.png", spot())
    second = ingest(folders, first)
    assert "MT_Free" in second.categories and "empty mask" in reasons_by_path(second)["MT_Free/Imgs/c1.jpg"]
