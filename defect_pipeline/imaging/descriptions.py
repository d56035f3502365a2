"""What is known of images, kept in a folder: descriptions by content hash, so that an image is described once in its
life, and the gallery of those that have been compared with each other.
"""

import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import cv2
import faiss
import numpy as np
from safetensors.numpy import load, save

from defect_pipeline.files import replacing
from defect_pipeline.imaging.groups import FEATURES, LIGHT, SIDE, Description, Gallery, describe
from defect_pipeline.imaging.neighbours import Index

EDITION = f"1-{SIDE}-{LIGHT:g}-{FEATURES}-{cv2.__version__}"  # the first number counts up when `describe` changes
GALLERY = f"gallery-2-{EDITION}-{faiss.__version__}.npz"  # the number counts up when comparing changes
CHECKSUM = 4  # bytes


def described(folder: Path, sha256: str, read: Callable[[], np.ndarray]) -> Description:
    """The description that `folder` keeps for this hash; else that of the (H, W, 3) uint8 RGB that `read` returns.

    What is missing, of another edition or damaged is described anew and kept. Raises what `read` raises, and OSError
    where the folder cannot be written to.
    """
    file = folder / _name(sha256)
    try:
        content = file.read_bytes()
        if _checksum(content[:-CHECKSUM]) == content[-CHECKSUM:]:
            return Description(**load(content[:-CHECKSUM]))
    except OSError:
        pass
    description = describe(read())
    content = save(description._asdict())
    with replacing(file) as partial:
        partial.write_bytes(content + _checksum(content))
    return description


def forget_others(folder: Path, hashes: Collection[str]) -> None:
    """Removes what `folder` keeps for other images than these, and what other editions have left."""
    names = {GALLERY} | {_name(sha256) for sha256 in hashes}
    for file in folder.iterdir():
        if file.suffix in (".npz", ".description") and file.name not in names:
            file.unlink(missing_ok=True)


def read_gallery(folder: Path) -> Gallery:
    """The gallery that `folder` keeps; an empty one where it is missing, of another edition or damaged."""
    try:
        with np.load(folder / GALLERY) as kept:  # a zip, whose checksums tell damage
            numbers = dict(zip(kept["keys"].tolist(), kept["numbers"].tolist(), strict=True))
            index = Index(numbers, int(kept["planned"]), kept["axes"], faiss.deserialize_index(kept["cells"]))
            return Gallery(index, {(one, other) for one, other in kept["links"].tolist()})
    except Exception:  # a damaged zip makes numpy raise almost anything
        return Gallery()


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Keep a gallery in `folder`. Raises OSError where it cannot be written to."""
    index = gallery.index
    arrays = {
        "keys": np.array(list(index.numbers), str), "numbers": np.array(list(index.numbers.values()), int),
        "planned": np.array(index.planned), "axes": index.axes, "cells": faiss.serialize_index(index.cells),
        "links": np.array(sorted(gallery.links), str).reshape(-1, 2),
    }  # fmt: skip
    with replacing(folder / GALLERY) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def _name(sha256: str) -> str:
    return f"{sha256}-{EDITION}.description"


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM)
