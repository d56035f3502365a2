"""What is known of images, kept in a folder: descriptions by content hash, so that an image is described once in its
life, and the gallery of those that have been compared with each other.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np

from defect_pipeline.files import replacing
from defect_pipeline.imaging.groups import FEATURES, LIGHT, SIDE, Description, Gallery, describe
from defect_pipeline.imaging.neighbours import Index

EDITION = f"1-{SIDE}-{LIGHT:g}-{FEATURES}-{cv2.__version__}"  # the first number counts up when `describe` changes
GALLERY = f"gallery-2-{EDITION}-{faiss.__version__}.npz"  # the number counts up when comparing changes


def described(folder: Path, sha256: str, read: Callable[[], np.ndarray]) -> Description:
    """The description that `folder` keeps for this hash; else that of the (H, W, 3) uint8 RGB that `read` returns.

    What is missing, of another edition or damaged is described anew and kept. Raises what `read` raises, and OSError
    where the folder cannot be written to.
    """
    file = folder / _name(sha256)
    try:
        with np.load(file) as kept:  # a zip, whose checksums tell damage
            return Description(*(kept[name] for name in Description._fields))
    except Exception:  # a damaged zip makes numpy raise almost anything
        description = describe(read())
    _write(file, description._asdict())
    return description


def forget_others(folder: Path, hashes: Collection[str]) -> None:
    """Removes what `folder` keeps for other images than these, and what other editions have left."""
    names = {GALLERY} | {_name(sha256) for sha256 in hashes}
    for file in folder.glob("*.npz"):
        if file.name not in names:
            file.unlink(missing_ok=True)


def read_gallery(folder: Path) -> Gallery:
    """The gallery that `folder` keeps; an empty one where it is missing, of another edition or damaged."""
    try:
        with np.load(folder / GALLERY) as kept:
            numbers = dict(zip(kept["keys"].tolist(), kept["numbers"].tolist(), strict=True))
            index = Index(numbers, int(kept["planned"]), kept["axes"], faiss.deserialize_index(kept["cells"]))
            return Gallery(index, {(one, other) for one, other in kept["links"].tolist()})
    except Exception:  # as above
        return Gallery()


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Keep a gallery in `folder`. Raises OSError where it cannot be written to."""
    index = gallery.index
    arrays = {
        "keys": np.array(list(index.numbers), str), "numbers": np.array(list(index.numbers.values()), int),
        "planned": np.array(index.planned), "axes": index.axes, "cells": faiss.serialize_index(index.cells),
        "links": np.array(sorted(gallery.links), str).reshape(-1, 2),
    }  # fmt: skip
    _write(folder / GALLERY, arrays)


def _write(file: Path, arrays: Mapping[str, Any]) -> None:
    """All of it or nothing."""
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def _name(sha256: str) -> str:
    return f"{sha256}-{EDITION}.npz"
