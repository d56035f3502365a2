"""Descriptions of images kept in a folder by content hash, so that an image is described once in its life."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

import cv2
import numpy as np

from defect_pipeline.imaging.groups import FEATURES, LIGHT, SIDE, Description, describe

EDITION = f"1-{SIDE}-{LIGHT:g}-{FEATURES}-{cv2.__version__}"  # the first number counts up when `describe` changes


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
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **description._asdict())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return description


def forget_others(folder: Path, hashes: Collection[str]) -> None:
    """Removes what `folder` keeps for other images than these, and what other editions have left."""
    names = {_name(sha256) for sha256 in hashes}
    for file in folder.glob("*.npz"):
        if file.name not in names:
            file.unlink(missing_ok=True)


def _name(sha256: str) -> str:
    return f"{sha256}-{EDITION}.npz"
