"""Readers of the exported formats, from their specifications and from nothing of the writers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree import ElementTree

import cv2
import numpy as np
import yaml
from pycocotools.coco import COCO


@dataclass
class Read:
    """What a tool would know of an image file: its size, whether it is synthetic, [(class, (H, W) bool)]."""

    height: int
    width: int
    synthetic: bool
    instances: list[tuple[str, np.ndarray]]


def read_coco(folder: Path) -> dict[str, Read]:
    """By pycocotools."""
    found = {}
    for file in sorted((folder / "annotations").iterdir()):
        split = file.stem.removeprefix("instances_")
        coco = COCO(file)
        for number, image in coco.imgs.items():
            own = [(coco.cats[a["category_id"]]["name"], coco.annToMask(a) == 1) for a in coco.imgToAnns[number]]
            read = Read(image["height"], image["width"], image["synthetic"], own)
            found[f"images/{split}/{image['file_name']}"] = read
    return found


def read_yolo(folder: Path) -> dict[str, Read]:
    """Image files of a side, and beside each its label by Ultralytics' rule: `images` → `labels`, suffix .txt."""
    data = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    found = {}
    for split in {data[side] for side in ("train", "val", "test") if side in data}:
        for path in sorted((folder / split).iterdir()):
            height, width = cv2.imread(str(path)).shape[:2]
            label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
            instances = []
            for line in label.read_text().splitlines():
                number, *shares = line.split()
                assert len(shares) >= 6 and all(0 <= float(share) <= 1 for share in shares)
                ring = np.array(shares, float).reshape(-1, 2) * (width, height)
                instances.append((data["names"][int(number)], inside(ring, height, width)))
            found[path.relative_to(folder).as_posix()] = Read(
                height, width, path.name.startswith("synthetic"), instances
            )
    return found


def inside(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels whose middle a polygon (n, 2) encloses, by counting the edges to its right."""
    y, x = np.mgrid[:height, :width] + 0.5
    odd = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


def read_cvat(folder: Path) -> dict[str, Read]:
    """The XML alone; labels and attributes must be among those it declares."""
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    labels = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    assert labels == [label["name"] for label in json.loads((folder / "labels.json").read_text("utf-8"))]
    found = {}
    for number, image in enumerate(root.iterfind("image")):
        assert int(image.attrib["id"]) == number
        height, width = int(image.attrib["height"]), int(image.attrib["width"])
        flags, instances = {"synthetic" in image.attrib["name"]}, []
        for node in image.iterfind("mask"):
            assert node.attrib["label"] in labels
            left, top, w, h = (int(node.attrib[key]) for key in ("left", "top", "width", "height"))
            value, flat = 0, []
            for run in node.attrib["rle"].split(","):
                flat += [value] * int(run)
                value = 1 - value
            mask = np.zeros((height, width), bool)
            mask[top : top + h, left : left + w] = np.array(flat).reshape(h, w)
            instances.append((node.attrib["label"], mask))
            flags.add({"true": True, "false": False}[node.findtext("attribute[@name='synthetic']") or ""])
        assert len(flags) == 1  # file name and attributes say the same
        found[f"images/{image.attrib['name']}"] = Read(height, width, flags.pop(), instances)
    return found


def read_label_studio(folder: Path) -> dict[str, Read]:
    """Tasks; from_name, to_name and labels must be those of the interface, image paths below the folder above."""
    view = ElementTree.parse(folder / "labeling_config.xml").getroot()
    brush, image = view.find("BrushLabels"), view.find("Image")
    assert brush is not None and image is not None
    labels = [label.attrib["value"] for label in brush.iterfind("Label")]
    found = {}
    for task in json.loads((folder / "tasks.json").read_text("utf-8")):
        address = urlparse(task["data"][image.attrib["value"].removeprefix("$")])
        assert address.path == "/data/local-files/"
        path = folder.parent / unquote(parse_qs(address.query)["d"][0])
        height, width = cv2.imread(str(path)).shape[:2]
        instances = []
        for result in task["annotations"][0]["result"]:
            assert (result["from_name"], result["to_name"]) == (brush.attrib["name"], image.attrib["name"])
            assert (result["original_height"], result["original_width"]) == (height, width)
            [label] = result["value"]["brushlabels"]
            assert label in labels
            rgba = unpacked(result["value"]["rle"]).reshape(height, width, 4)
            instances.append((label, rgba[..., 3] > 0))
        key = path.relative_to(folder).as_posix()
        found[key] = Read(height, width, task["data"]["synthetic"], instances)
    return found


def unpacked(packed: list[int]) -> np.ndarray:
    """rle-pack: 32 bits n, 5 bits width - 1, four times 4 bits size - 1; then runs (1: one value, 0: each its own)."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    at = 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return int(bits[at - n : at], 2)

    n, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < n:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    assert len(bits) - at < 8
    return np.array(values, np.uint8)


READERS: dict[str, Callable[[Path], dict[str, Read]]] = {
    "coco": read_coco,
    "coco-polygons": read_coco,
    "yolo": read_yolo,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
}
