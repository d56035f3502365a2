"""What every format is written from: pictures with the masks of their defects, and where they come from."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.masks import decode

IMAGES = "images"
SPLITS = ("train", "val", "test")
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no way to write


@dataclass(frozen=True)
class Instance:
    """One defect: its class and mask, the `counts` of COCO's compressed RLE at its picture's size.

    A `crowd` is a region of many defects that nobody told apart. COCO marks it; the other formats have no word for it
    and take it for one defect.
    """

    category: str
    counts: str
    crowd: bool = False


@dataclass(frozen=True)
class Picture:
    """An image file of a set. Its `stem` is unique in the set, `split` is one of SPLITS, sizes are in px.

    `origin` holds what else is known of it, such as the seed, under one set of keys in all pictures of a set.
    """

    stem: str
    split: str
    height: int
    width: int
    synthetic: bool
    instances: tuple[Instance, ...]
    origin: Mapping[str, str | int]

    @property
    def name(self) -> str:
        """The file name. It says what the image is, for that is what every tool hands on."""
        return f"{'synthetic' if self.synthetic else 'real'}_{self.stem}.png"

    @property
    def path(self) -> str:
        """Where its file lies below the exported folder."""
        return f"{IMAGES}/{self.split}/{self.name}"

    @property
    def masks(self) -> Iterator[tuple[str, np.ndarray]]:
        """(category, (height, width) bool) of each instance, decoded one at a time."""
        return ((found.category, decode(found.counts, self.height, self.width)) for found in self.instances)


def by_split(pictures: Iterable[Picture]) -> dict[str, list[Picture]]:
    """The pictures of each split that has any, in the order of SPLITS, by name."""
    ordered = sorted(pictures, key=lambda picture: (SPLITS.index(picture.split), picture.name))
    return {split: list(own) for split, own in groupby(ordered, key=lambda picture: picture.split)}


def refuse_unwritable(categories: Sequence[str], tool: str, *, longest: int | None = None) -> None:
    """Raises PipelineError for a class name that XML cannot hold, or with more characters than the tool allows."""
    for name in categories:
        if NOT_XML.search(name):
            raise PipelineError(
                f"{tool} cannot hold the class name {name!r}: XML has no control characters. Rename the class in the data."
            )
        if longest is not None and len(name) > longest:
            raise PipelineError(
                f"{tool} cannot hold the class name {name!r}: it has {len(name)} characters, {longest} are allowed. Rename the class in the data."
            )


def hex_colours(categories: Sequence[str]) -> dict[str, str]:
    """category -> "#rrggbb", the colour that it has in this project's pictures too."""
    return {name: f"#{bytes(colour).hex()}" for name, colour in class_colours(categories).items()}


def run_lengths(values: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal values in a 1-d array that is not empty."""
    starts = np.flatnonzero(np.diff(values)) + 1
    return np.diff(np.concatenate([[0], starts, [len(values)]]))
