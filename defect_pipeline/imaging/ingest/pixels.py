"""Images and masks opened: what is kept of them, and what need not be opened again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from defect_pipeline.imaging import masks
from defect_pipeline.imaging.dataset import OPENED_COLUMNS, Dataset
from defect_pipeline.imaging.ingest.survey import Entry, Survey
from defect_pipeline.imaging.io import UnopenedFileError, UnusableFileError, decode, oriented, read_bytes, read_mask
from defect_pipeline.lazy import pd

_STAMPS = ("size", "mtime_ns", "mask_size", "mask_mtime_ns")


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
) -> tuple[dict[str, Pixels], pd.DataFrame]:
    """image -> Pixels of the readable images, the others being rejected; and the table that is `Dataset.opened`.

    What `previous` has opened and what still has its path, size and time is not opened again.
    """
    seen = {} if previous is None else _known(survey, previous.opened)
    new = [entry for entry in entries if (entry.image, entry.mask) not in seen]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing leave Python's lock
        results = pool.map(lambda entry: _read(survey, entry), new)
        for done, (entry, result) in enumerate(zip(new, results, strict=True), start=1):
            seen[entry.image, entry.mask] = result
            if on_progress:
                on_progress(done, len(new))
    pixels, opened = {}, []
    for entry in entries:
        result = seen[entry.image, entry.mask]
        if isinstance(result, Pixels):
            pixels[entry.image] = result
        else:
            survey.reject(entry.image, result.reason, result.remedy)
        if not isinstance(result, UnopenedFileError):
            opened.append(_row(survey, entry, result))
    return pixels, pd.DataFrame(opened, columns=list(OPENED_COLUMNS))


def _known(survey: Survey, opened: pd.DataFrame) -> dict[tuple[str, str], Pixels | UnusableFileError]:
    """(image, mask) -> what they were found to be, for those whose files have the size and time that they had."""
    known: dict[tuple[str, str], Pixels | UnusableFileError] = {}
    for row in opened.to_dict("records"):
        image, mask = row["path"], row["mask_path"]
        if _stamps(survey, image, mask) != {name: row[name] for name in _STAMPS}:
            continue
        if row["reason"]:
            known[image, mask] = UnusableFileError(image, row["reason"], row["remedy"])
        else:
            size = row["width"], row["height"]
            known[image, mask] = Pixels(row["sha256"], *size, row["orientation"], tuple(row["parts"]))
    return known


def _row(survey: Survey, entry: Entry, result: Pixels | UnusableFileError) -> dict[str, Any]:
    row = {"path": entry.image, "mask_path": entry.mask} | _stamps(survey, entry.image, entry.mask)
    if isinstance(result, Pixels):
        return row | vars(result) | {"reason": "", "remedy": ""}
    return row | vars(Pixels("", 0, 0, 1)) | {"reason": result.reason, "remedy": result.remedy}


def _stamps(survey: Survey, image: str, mask: str) -> dict[str, int]:
    absent = 0, 0
    return dict(zip(_STAMPS, survey.files.get(image, absent) + survey.files.get(mask, absent), strict=True))


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
        return type(error)(entry.image, f"its mask {entry.mask} {error.reason}", error.remedy)
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
