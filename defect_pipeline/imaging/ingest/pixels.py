"""Images and masks opened: what is kept of them, and what need not be opened again."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from defect_pipeline.imaging import masks
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.ingest.survey import Entry, Survey
from defect_pipeline.imaging.io import UnusableFileError, decode, oriented, read_bytes, read_mask


@dataclass(frozen=True)
class Pixels:
    """What is kept of a decoded image: hash, displayed size, EXIF orientation, and the parts of its mask as RLE."""

    sha256: str
    width: int
    height: int
    orientation: int
    parts: tuple[str, ...] = ()


def read_all(
    survey: Survey, entries: list[Entry], previous: Dataset | None, on_progress: Callable[[int, int], None] | None
) -> dict[str, Pixels]:
    """image -> Pixels of the readable images; what `previous` knows by path, size and time is not opened."""
    known = {} if previous is None else _known(survey, previous)
    pixels, new = {}, []
    for entry in entries:
        if (entry.image, entry.mask) in known:
            pixels[entry.image] = known[entry.image, entry.mask]
        else:
            new.append(entry)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing leave Python's lock
        results = pool.map(lambda entry: _read(survey, entry), new)
        for done, (entry, result) in enumerate(zip(new, results, strict=True), start=1):
            if isinstance(result, UnusableFileError):
                survey.reject(entry.image, result.reason, result.remedy)
            else:
                pixels[entry.image] = result
            if on_progress:
                on_progress(done, len(new))
    return pixels


def _known(survey: Survey, previous: Dataset) -> dict[tuple[str, str], Pixels]:
    """(image, mask) -> Pixels, for those whose files have the size and time that they had."""
    parts: dict[Any, list[str]] = defaultdict(list)
    drawn = previous.instances[previous.instances["source"] == "mask"]
    for image_id, counts in zip(drawn["image_id"], drawn["counts"], strict=True):
        parts[image_id].append(counts)
    known = {}
    for image_id, row in previous.images.to_dict("index").items():
        mask = row["mask_path"]
        same_mask = not mask or survey.files.get(mask) == (row["mask_size"], row["mask_mtime_ns"])
        if same_mask and survey.files.get(row["path"]) == (row["size"], row["mtime_ns"]):
            kept = Pixels(row["sha256"], row["width"], row["height"], row["orientation"], tuple(parts[image_id]))
            known[row["path"], mask] = kept
    return known


def _read(survey: Survey, entry: Entry) -> Pixels | UnusableFileError:
    """Decodes an image and its mask; returns the error instead of raising it, to come back through the pool."""
    try:
        survey.guard(entry.image)
        data = read_bytes(survey.root / entry.image)
        picture, orientation = decode(data, survey.root / entry.image)
    except UnusableFileError as error:
        return error
    height, width = picture.shape[:2]
    pixels = Pixels(hashlib.sha256(data).hexdigest(), width, height, orientation)
    if not entry.mask:
        return pixels
    try:
        survey.guard(entry.mask)
        drawn = read_mask(survey.root / entry.mask)
        turn = turn_of((drawn.shape[1], drawn.shape[0]), pixels)
    except UnusableFileError as error:
        return UnusableFileError(entry.image, f"its mask {entry.mask} {error.reason}", error.remedy)
    return replace(pixels, parts=tuple(masks.encode(part) for part in masks.instances_of(oriented(drawn, turn))))


def turn_of(size: tuple[int, int], pixels: Pixels) -> int:
    """The orientation (1-8) that turns a drawing of `size` (width, height) like the image. Raises UnusableFileError."""
    displayed = pixels.width, pixels.height
    if size == displayed:
        return 1
    if size == displayed[::-1] and pixels.orientation >= 5:
        return pixels.orientation
    reason = f"is drawn for {size[0]}x{size[1]} px, the image has {displayed[0]}x{displayed[1]}"
    raise UnusableFileError("", reason, "export both at one size")
