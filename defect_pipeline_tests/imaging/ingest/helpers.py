"""Pictures, masks and annotations to write into the folders under test, and looks at what came of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pycocotools import mask as coco_mask

from defect_pipeline.imaging.dataset import Dataset

H, W = 24, 32


def spot(top: int = 4, left: int = 6, height: int = 5, width: int = 8, shape: tuple[int, int] = (H, W)) -> np.ndarray:
    """A (H, W) bool mask of one rectangle, in px."""
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def picture(path: Path, shade: int = 90, size: tuple[int, int] = (W, H), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path, **options)


def drawn_mask(path: Path, mask: np.ndarray) -> None:
    """A mask file of a bool mask, white on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def rle(mask: np.ndarray, packed: bool) -> dict[str, Any]:
    """COCO's run lengths, compressed or not."""
    if packed:
        counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
        return {"size": list(mask.shape), "counts": counts}
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


def polygon(top: int, left: int, height: int, width: int) -> list[list[float]]:
    """COCO's outline of a rectangle, in px."""
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def annotation_of(number: int, image: int, segmentation: Any, category: int = 1, **extra: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation} | extra


def write_xml(path: Path, *boxes: tuple[Any, ...], filename: str = "stale.jpg", size: tuple[int, int] = (W, H)) -> None:
    """A VOC file of boxes (name, xmin, ymin, xmax, ymax)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = ""
    for name, *corners in boxes:
        box = "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, corners, strict=True))
        objects += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    width, height = size
    head = f"<filename>{filename}</filename><size><width>{width}</width><height>{height}</height></size>"
    path.write_text(f"<annotation>{head}{objects}</annotation>")


def reasons_by_path(dataset: Dataset) -> dict[str, str]:
    """The rejected, one reason each."""
    return dict(zip(dataset.rejected["path"], dataset.rejected["reason"], strict=True))


def id_of(dataset: Dataset, path: str) -> int:
    return dataset.images.index[dataset.images["path"] == path].item()


def assert_same(one: Dataset, other: Dataset) -> None:
    for table in ("images", "instances", "rejected", "opened"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table))
    assert one.digest == other.digest
