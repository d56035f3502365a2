"""The tables that everything downstream reads: images, their defect instances, and the files that could not be used."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import decode
from defect_pipeline.lazy import pd

INSTANCE_COLUMNS = ("image_id", "category", "counts", "area", "bbox", "source", "iscrowd")
REJECTED_COLUMNS = ("path", "reason", "remedy")
OPENED_COLUMNS = (
    "path", "size", "mtime_ns", "mask_path", "mask_size", "mask_mtime_ns",
    "sha256", "width", "height", "orientation", "parts", "reason", "remedy",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inspection images with their defect instances.

    `images`      one row per image. Index `image_id`: 1..n in path order, so it shifts when images join; key by path or
                  group instead. path (posix, below `root`), sha256 (of the file), width and height (px, as displayed),
                  defect_class ("" = defect-free, else the rarest of its categories). Once the images are grouped:
                  group, and split ("train", "val" or "test").
    `instances`   one row per defect: image_id, category, counts (compressed RLE at the image's height x width),
                  area (px), bbox [x, y, w, h] (px), source ("mask", "polygon", "rle" or "box"), iscrowd (0 or 1).
    `categories`  the names of the defect classes, sorted.
    `rejected`    one row per file or annotation left out: path, reason, remedy.
    `opened`      one row per image that was opened, used or not, so that the next ingest need not: path, size (bytes),
                  mtime_ns, mask_path ("" = none), mask_size, mask_mtime_ns; what was seen: sha256, width, height,
                  orientation (EXIF, 1-8), parts (of the mask, as compressed RLE); or the reason and remedy of a file
                  that cannot be decoded. Without rows, everything is opened anew.
    """

    root: Path
    images: pd.DataFrame
    instances: pd.DataFrame
    categories: tuple[str, ...]
    rejected: pd.DataFrame
    opened: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(OPENED_COLUMNS)))

    def image(self, image_id: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, as displayed. Raises PipelineError if the file has gone or is damaged."""
        return read_image(self.root / str(self.images.at[image_id, "path"]))

    def masks(self, image_id: int) -> list[tuple[str, np.ndarray]]:
        """[(category, (H, W) bool)], one per instance; empty for a defect-free image."""
        height, width = self._size(image_id)
        return [(category, decode(counts, height, width)) for category, counts in self.shapes(image_id)]

    def shapes(self, image_id: int) -> list[tuple[str, str]]:
        """[(category, compressed RLE)], one per instance: what `masks` decodes."""
        return self._shapes.get(image_id, [])

    def class_mask(self, image_id: int, category: str) -> np.ndarray:
        """(H, W) bool: the union of that category's instances."""
        union = np.zeros(self._size(image_id), dtype=bool)
        for name, mask in self.masks(image_id):
            if name == category:
                union |= mask
        return union

    def seed(self, image_id: int) -> int:
        """A number below 2**48 that belongs to the image's file: its randomness stays when other images join."""
        return int(str(self.images.at[image_id, "sha256"])[:12], 16)

    def of_split(self, split: str) -> list[int]:
        """Image ids of "train", "val" or "test"."""
        return self.images.index[self.images["split"] == split].tolist()

    def defect_free(self) -> list[int]:
        """Ids of the images without a defect."""
        return self.images.index[self.images["defect_class"] == ""].tolist()

    def of_class(self, category: str) -> list[int]:
        """Ids of the images that show at least one instance of the category, ascending."""
        return sorted(set(self.instances.loc[self.instances["category"] == category, "image_id"]))

    def with_columns(self, **columns: Any) -> Dataset:
        """A copy whose image table also has these columns (in the order of the rows, or Series indexed by image_id)."""
        return replace(self, images=self.images.assign(**columns))

    @property
    def digest(self) -> str:
        """sha256 (hex) over paths, image hashes, instances and categories; not over file times, groups and splits."""
        path = self.images["path"]
        shapes = self.instances[["category", "counts", "source", "iscrowd"]].astype({"iscrowd": int})
        content = {
            "images": list(zip(path, self.images["sha256"], strict=True)),
            "instances": list(zip(self.instances["image_id"].map(path), *(shapes[c] for c in shapes), strict=True)),
            "categories": self.categories,
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes manifest.parquet (images), annotations.json (COCO), rejected.csv, opened.parquet into a directory."""
        self.images.to_parquet(directory / "manifest.parquet")
        (directory / "annotations.json").write_text(json.dumps(self._coco()), encoding="utf-8")
        self.rejected.to_csv(directory / "rejected.csv", index=False)
        self.opened.to_parquet(directory / "opened.parquet")

    @classmethod
    def load(cls, directory: Path, root: Path, *, annotated: bool = True) -> Dataset:
        """What `save` wrote; `root` is the folder that the paths are relative to. `opened` may be missing or broken.

        Not ``annotated``, instances and categories are left out, which take longest to read.
        """
        coco: dict[str, Any] = {"categories": [], "annotations": []}
        if annotated:
            coco = json.loads((directory / "annotations.json").read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in coco["categories"]}
        instances = [
            entry | {"category": names[entry["category_id"]], "counts": entry["segmentation"]["counts"]}
            for entry in coco["annotations"]
        ]
        loaded = cls(
            root=root,
            images=pd.read_parquet(directory / "manifest.parquet"),
            instances=pd.DataFrame(instances, columns=list(INSTANCE_COLUMNS)),
            categories=tuple(names.values()),
            rejected=pd.read_csv(directory / "rejected.csv", dtype=str, keep_default_na=False),
        )
        try:
            return replace(loaded, opened=pd.read_parquet(directory / "opened.parquet", columns=list(OPENED_COLUMNS)))
        except Exception:  # a damaged table makes pyarrow raise almost anything; nothing but time is lost
            return loaded

    def _size(self, image_id: int) -> tuple[int, int]:
        """(height, width) in px."""
        cell = self.images.at  # of any type, say pandas' stubs
        return int(cell[image_id, "height"]), int(cell[image_id, "width"])  # type: ignore[arg-type]

    @cached_property
    def _shapes(self) -> dict[int, list[tuple[str, str]]]:
        """image_id -> [(category, counts)]. Kept, since filtering the table anew for each image is quadratic."""
        shapes: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for image_id, category, counts in self.instances[["image_id", "category", "counts"]].itertuples(index=False):
            shapes[image_id].append((category, counts))
        return dict(shapes)

    def _coco(self) -> dict[str, Any]:
        """The COCO document: category ids 1..K in the order of `categories`; group and split ride on the images."""
        numbers = {name: number for number, name in enumerate(self.categories, start=1)}
        sizes = dict(zip(self.images.index, self.images[["height", "width"]].values.tolist(), strict=True))
        extra = [column for column in ("group", "split") if column in self.images]
        keys = "id", "file_name", "width", "height", *extra
        rows = self.images[["path", "width", "height", *extra]].itertuples(name=None)
        images = [dict(zip(keys, row, strict=True)) for row in rows]
        found = self.instances[list(INSTANCE_COLUMNS)].itertuples(index=False, name=None)
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": numbers[category],
                "segmentation": {"size": sizes[image_id], "counts": counts},
                "area": area,
                "bbox": bbox,
                "iscrowd": iscrowd,
                "source": source,
            }
            for number, (image_id, category, counts, area, bbox, source, iscrowd) in enumerate(found, start=1)
        ]
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        return {"images": images, "annotations": annotations, "categories": categories}
