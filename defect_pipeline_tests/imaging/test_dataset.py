"""The tables must survive saving, and say what COCO's own reader says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from defect_pipeline.imaging.dataset import INSTANCE_COLUMNS, OPENED_COLUMNS, REJECTED_COLUMNS, Dataset
from defect_pipeline.imaging.masks import bbox, encode


def _mask(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((20, 30), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def _instance(image_id: int, category: str, mask: np.ndarray, iscrowd: int = 0) -> dict[str, object]:
    counts, area = encode(mask), int(mask.sum())
    values = (image_id, category, counts, area, bbox(mask), "mask", iscrowd)
    return dict(zip(INSTANCE_COLUMNS, values, strict=True))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for name, grey in (("a.png", 10), ("b.png", 20), ("c.png", 30)):
        Image.new("L", (30, 20), grey).save(tmp_path / name)
    instances = [
        _instance(1, "pit", _mask(2, 3, 4)),
        _instance(1, "pit", _mask(10, 12, 5)),
        _instance(1, "crack", _mask(0, 20, 2), iscrowd=1),
        _instance(3, "pit", _mask(5, 5, 6)),
    ]
    images = pd.DataFrame(
        {"path": ["a.png", "b.png", "c.png"], "sha256": ["1", "2", "3"], "width": 30, "height": 20}
        | {"defect_class": ["crack", "", "pit"]},
        index=pd.RangeIndex(1, 4, name="image_id"),
    )
    rejected = pd.DataFrame([("d.png", "is empty, so to say", "NA")], columns=list(REJECTED_COLUMNS), dtype=str)
    opened = pd.DataFrame(
        [("a.png", 9, 1795242092288096848, "", 0, 0, "1", 30, 20, 1, ["x", "y"], "", "")]
        + [("d.png", 0, 5, "m.png", 7, 8, "", 0, 0, 1, [], "is empty", "NA")],
        columns=list(OPENED_COLUMNS),
    )
    return Dataset(tmp_path, images, pd.DataFrame(instances), ("crack", "pit"), rejected, opened)


def test_save_and_load_keep_every_table(dataset: Dataset, tmp_path: Path) -> None:
    split = dataset.with_columns(group=["g1", "g2", "g3"], split=["train", "train", "test"])
    split.save(tmp_path)
    loaded = Dataset.load(tmp_path, tmp_path)
    # a range or a list of numbers is one and the same index
    pd.testing.assert_frame_equal(loaded.images, split.images, check_index_type=False)
    pd.testing.assert_frame_equal(loaded.instances, split.instances)
    pd.testing.assert_frame_equal(loaded.rejected, split.rejected)
    pd.testing.assert_frame_equal(loaded.opened, split.opened)
    assert loaded.categories == split.categories
    assert loaded.digest == split.digest == dataset.digest


def test_tables_without_rows_survive_too(dataset: Dataset, tmp_path: Path) -> None:
    tables = {name: getattr(dataset, name)[:0] for name in ("instances", "rejected", "opened")}
    empty = replace(dataset, categories=(), **tables)
    empty.save(tmp_path)
    loaded = Dataset.load(tmp_path, tmp_path)
    assert loaded.instances.empty and list(loaded.instances) == list(INSTANCE_COLUMNS)
    assert loaded.rejected.empty and list(loaded.rejected) == list(REJECTED_COLUMNS)
    assert loaded.opened.empty and list(loaded.opened) == list(OPENED_COLUMNS)
    assert loaded.digest == empty.digest and loaded.masks(1) == []


def test_what_was_opened_may_be_missing_or_broken(dataset: Dataset, tmp_path: Path) -> None:
    dataset.save(tmp_path)
    file = tmp_path / "opened.parquet"
    whole = file.read_bytes()
    for content in (b"", b"no table", whole[:-9], bytes(len(whole)), whole.replace(b"reason", b"reasno")):
        file.write_bytes(content)
        assert Dataset.load(tmp_path, tmp_path).opened.empty
    file.unlink()
    loaded = Dataset.load(tmp_path, tmp_path)
    assert loaded.opened.empty and list(loaded.opened) == list(OPENED_COLUMNS) and loaded.digest == dataset.digest


def test_saved_coco_is_read_alike_by_pycocotools(dataset: Dataset, tmp_path: Path) -> None:
    dataset.with_columns(group="g", split=["train", "val", "test"]).save(tmp_path)
    coco = COCO(tmp_path / "annotations.json")
    assert {entry["id"]: entry["name"] for entry in coco.cats.values()} == {1: "crack", 2: "pit"}
    assert [image["split"] for image in coco.imgs.values()] == ["train", "val", "test"]
    assert [entry["iscrowd"] for entry in coco.anns.values()] == [0, 0, 1, 0]
    drawn = [mask for image_id in dataset.images.index for _, mask in dataset.masks(image_id)]
    for entry, mask in zip(coco.anns.values(), drawn, strict=True):
        np.testing.assert_array_equal(coco.annToMask(entry), mask)
        assert entry["area"] == mask.sum() and entry["bbox"] == bbox(mask)


def test_images_and_masks(dataset: Dataset) -> None:
    assert dataset.image(2).shape == (20, 30, 3) and dataset.image(2)[0, 0].tolist() == [20, 20, 20]
    assert [name for name, _ in dataset.masks(1)] == ["pit", "pit", "crack"]
    np.testing.assert_array_equal(dataset.class_mask(1, "pit"), _mask(2, 3, 4) | _mask(10, 12, 5))
    assert not dataset.class_mask(2, "pit").any() and dataset.class_mask(2, "pit").shape == (20, 30)


def test_selections(dataset: Dataset) -> None:
    split = dataset.with_columns(split=["train", "train", "test"])
    assert split.of_split("train") == [1, 2] and split.of_split("val") == []
    assert dataset.defect_free() == [2]
    assert dataset.of_class("pit") == [1, 3] and dataset.of_class("crack") == [1]
    assert "split" not in dataset.images


def test_digest_follows_content_and_not_file_times(dataset: Dataset) -> None:
    assert dataset.with_columns(split="train").digest == dataset.digest
    assert replace(dataset, opened=dataset.opened[:0]).digest == dataset.digest
    assert dataset.with_columns(sha256="0").digest != dataset.digest
    moved = dataset.instances.assign(counts=encode(_mask(0, 0, 3)))
    assert replace(dataset, instances=moved).digest != dataset.digest
    assert replace(dataset, instances=dataset.instances.assign(category="pit")).digest != dataset.digest
