"""The sample data set: procedural borescope photographs of a gas turbine's combustor liner, with annotated defects.

Made from nothing but a seed, so it is free of any licence, and ingested like a user's own data. A part is a flat canvas
of reflectance, height and gloss; defects change these, so that light falls on them as on everything else; a camera
inside the liner then photographs the part, bent to a cylinder, a few times. Gas flows down the canvas (+y).
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.masks import bbox
from defect_pipeline.imaging.sample.camera import SIDE, photograph
from defect_pipeline.imaging.sample.defects import DEFECTS, damage
from defect_pipeline.imaging.sample.part import render_part

Entry = tuple[dict[str, Any], list[tuple[str, np.ndarray]]]  # an image of the COCO document, and its masks
VIEWS = (3, 2, 4, 3, 2, 3, 4)  # photographs of the first, second ... part of a class
FREE_VIEWS = (3, 2, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 3, 3)  # of those without a defect
# Noise repeats nothing, so looking for repeats costs time and, at the default level, even space
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)


def make_sample(directory: Path, seed: int = 0) -> None:
    """Write the sample as a COCO data set: annotations.json, images/*.png (with defects) and defect_free/*.png.

    All of SIDE x SIDE px, RGB. File names tell nothing; the true part of each image is its entry's `part`. The same
    seed gives the same bytes. annotations.json is written last: where it exists, the set is whole.
    """
    jobs = [(category, views) for category in DEFECTS for views in VIEWS] + [("", views) for views in FREE_VIEWS]
    numbers = iter(np.random.default_rng([seed, 0]).permutation(sum(views for _, views in jobs)).tolist())
    for folder in ("images", "defect_free"):
        (directory / folder).mkdir(parents=True, exist_ok=True)

    def draw(order: int, category: str, own: list[int]) -> list[Entry]:
        rng, entries = np.random.default_rng([seed, order]), []
        part = render_part(rng)
        if category:
            damage(part, category, rng)
        for number in own:
            picture, masks = photograph(part, rng)
            name = f"{'images' if category else 'defect_free'}/img_{number:04d}.png"
            encoded = cv2.imencode(".png", picture[..., ::-1], PNG)[1]
            (directory / name).write_bytes(encoded.tobytes())  # cv2.imwrite says nothing when the disk is full
            image = {"file_name": name, "width": SIDE, "height": SIDE, "license": 1, "part": f"part_{order:02d}"}
            entries.append((image, masks))
        return entries

    orders, categories = range(1, len(jobs) + 1), [category for category, _ in jobs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each part has a generator of its own
        drawn = pool.map(draw, orders, categories, [list(islice(numbers, views)) for _, views in jobs])
        entries = [entry for part in drawn for entry in part]
    _write_coco(directory / "annotations.json", sorted(entries, key=lambda entry: entry[0]["file_name"][-8:]))


def _write_coco(path: Path, entries: Sequence[Entry]) -> None:
    """The images and their masks as a COCO document: polygons where they tell all of a mask, else RLE."""
    document = coco_dict([image for image, _ in entries], [masks for _, masks in entries], list(DEFECTS))
    for annotation, mask in zip(document["annotations"], (m for _, masks in entries for _, m in masks), strict=True):
        polygons = _polygons(mask)
        if polygons:  # area and box are those of what a reader will fill
            filled = rle.decode(rle.merge(rle.frPyObjects(polygons, SIDE, SIDE))).astype(bool)
            annotation.update(segmentation=polygons, area=int(filled.sum()), bbox=bbox(filled))
    document["info"] = {"description": "Combustor liner seen through a borescope, procedural", "license": "CC0-1.0"}
    document["info"] |= {"version": "1.0", "year": 2025}
    document["licenses"] = [{"id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document), encoding="utf-8")
    os.replace(partial, path)


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines [x, y, x, y ...] of a (H, W) bool mask; none where it has holes, which polygons cannot tell."""
    fine = cv2.resize(mask.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = (tree[0, :, 3] >= 0).any()
    return [] if holes else [((contour[:, 0] + 0.5) / 4).ravel().tolist() for contour in contours]
