"""Which images look alike: an index of their local features, which images join and leave without building it anew.

A descriptor is compared with those in its cell of a coarse partition only, and the cell is found in another such
partition, of the cells' centres. The cost of an image therefore hardly grows with the number of images.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

import faiss
import numpy as np
from scipy.sparse import csr_array

PROJECTED = 32  # principal components of a descriptor that take part
CELL = 256  # descriptors that a descriptor is compared with, on average
SAMPLE = 20_000  # descriptors that the components are computed from
PROBED = 8  # regions in which a descriptor's cell is looked for; there are as many regions as cells in a region
RIVALS = 10  # nearest descriptors that share a vote; a pattern that more images than that have is worth nothing
GROWTH = 2  # times as many images as the cells were laid out for, and they are laid out anew
AT_ONCE = 100  # images projected together: threads that share small products mostly wait for each other

MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].ravel()
NOBODY = np.zeros(0, np.int32), np.zeros(0, np.float32)


class Votes(NamedTuple):
    """How much the descriptors of two images favour each other, by the images' numbers."""

    straight: csr_array  # (n, n) float32, symmetric: the images as they are
    mirrored: csr_array  # one of them mirrored

    def of(self, one: int) -> tuple[np.ndarray, np.ndarray]:
        """(k,) the numbers of images that have votes with this one, ascending; (k,) the more of both votes."""
        rows = [(votes, slice(*votes.indptr[one : one + 2])) for votes in self]
        others, place = np.unique(np.concatenate([votes.indices[row] for votes, row in rows]), return_inverse=True)
        most = np.zeros(len(others), np.float32)
        np.maximum.at(most, place, np.concatenate([votes.data[row] for votes, row in rows]))
        return others, most

    def flipped(self, one: int, other: int) -> bool:
        """Whether one looks like the other in a mirror."""
        return bool(self.mirrored[one, other] > self.straight[one, other])


@dataclass
class Index:
    """Descriptors ((n, 128) uint8 SIFT) of images, each under its image's number."""

    numbers: dict[str, int]  # of an image, by its key
    planned: int  # images that the cells were laid out for
    axes: np.ndarray  # (128, PROJECTED) float32
    cells: faiss.IndexIVF

    @classmethod
    def of(cls, images: Mapping[str, np.ndarray]) -> Self:
        """An index of these images' descriptors, numbered in their order."""
        rng = np.random.default_rng(0)
        descriptors = list(images.values())
        count = sum(map(len, descriptors))
        axes = _principal_axes(_some(descriptors, rng.permutation(count)[:SAMPLE]))
        places = rng.choice(count, min(max(1, count // CELL), count), replace=False)
        index = cls({}, len(images), axes, _cells(roots(_some(descriptors, places)) @ axes))
        index.add(images)
        return index

    def add(self, images: Mapping[str, np.ndarray]) -> None:
        """Images that join, numbered on."""
        first = self._size
        self.numbers |= {key: number for number, key in enumerate(images, start=first)}
        for start, some in _batches(list(images.values())):
            owners = np.repeat(first + start + np.arange(len(some)), [len(own) for own in some])
            self.cells.add_with_ids(roots(np.concatenate(some)) @ self.axes, owners)

    def remove(self, keys: Collection[str]) -> None:
        """Images that leave."""
        gone = [self.numbers.pop(key) for key in keys]
        if gone:
            self.cells.remove_ids(np.array(gone))

    def fits(self, images: int) -> bool:
        """Whether the cells are small enough for so many images."""
        return images <= GROWTH * self.planned

    def votes(self, images: Mapping[str, np.ndarray]) -> Votes:
        """What the descriptors of some of its images say of them and all others.

        Each votes for the nearest ones of other images, by how much nearer they are than the farthest of RIVALS, so a
        pattern that everybody has gets no weight.
        """
        size = self._size
        asking = sorted(images, key=self.numbers.__getitem__)
        owners = [self.numbers[key] for key in asking]
        ballots = []
        for axes in (self.axes, self.axes[MIRRORED]):
            cast = self._cast(owners, [images[key] for key in asking], axes)
            ends = np.zeros(size + 1, int)
            ends[[1 + own for own in owners]] = [len(favoured) for favoured, _ in cast]
            ends = ends.cumsum()
            others, weights = map(np.concatenate, zip(NOBODY, *cast, strict=True))
            if ends[-1] <= np.iinfo(np.int32).max // 2:  # so that SciPy, too, counts in 32 bits
                ends = ends.astype(np.int32)
            ballot = csr_array((weights, others, ends), (size, size))
            del cast, others, weights  # of many images, gigabytes
            ballots.append(ballot + ballot.T)
        return Votes(*ballots)

    @property
    def _size(self) -> int:
        """The number of the next image."""
        return 1 + max(self.numbers.values(), default=-1)

    def _cast(
        self, owners: Sequence[int], images: Sequence[np.ndarray], axes: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`_favoured` of images by their numbers, several at once, each with a thread of its own."""
        alone = partial(faiss.omp_set_num_threads, 1)  # of the thread that calls it
        with ThreadPoolExecutor(os.cpu_count(), initializer=alone) as pool:
            return [
                favoured
                for start, some in _batches(images)
                for favoured in pool.map(self._favoured, owners[start:], _projected(some, axes))
            ]

    def _favoured(self, own: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k,) int32, ascending: other images' numbers; (k,) float32: the weight that an image's projected descriptors give
        to each."""
        if not len(points):
            return NOBODY
        others = faiss.IDSelectorNot(faiss.IDSelectorRange(own, own + 1))
        among = faiss.SearchParametersIVF(sel=others, nprobe=1)
        distances, found = self.cells.search(points, RIVALS + 1, params=among)  # those that are missing have number -1
        farthest = np.where(found >= 0, distances, 0).max(axis=1, keepdims=True)
        weights = np.maximum(farthest - distances, 0)
        voted = weights > 0
        favoured, place = np.unique(found[voted], return_inverse=True)
        return favoured.astype(np.int32), np.bincount(place, weights[voted], len(favoured)).astype(np.float32)


def roots(descriptors: np.ndarray) -> np.ndarray:
    """(n, 128) float32 of unit length: under their Euclidean distance SIFT is compared by the Hellinger kernel."""
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True, dtype=np.float32), 1))


def mirrored(descriptors: np.ndarray) -> np.ndarray:
    """What SIFT would find in the mirror image: 4 x 4 cells of 8 directions, seen from the other side of the axis."""
    return descriptors[:, MIRRORED]


def _batches(images: Sequence[np.ndarray]) -> Iterator[tuple[int, Sequence[np.ndarray]]]:
    """Up to AT_ONCE images at a time, and the place of the first of them."""
    return ((start, images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE))


def _projected(images: Sequence[np.ndarray], axes: np.ndarray) -> list[np.ndarray]:
    """Of each image (n, PROJECTED) float32, its descriptors along the axes."""
    return np.split(roots(np.concatenate(images)) @ axes, np.cumsum([len(image) for image in images])[:-1])


def _some(images: Sequence[np.ndarray], places: np.ndarray) -> np.ndarray:
    """(n, 128) uint8: those in these places when the descriptors of all images stand in one row."""
    ends = np.cumsum([len(image) for image in images])
    owners = np.searchsorted(ends, places, side="right")
    found = [images[own][place] for own, place in zip(owners, places - ends[owners], strict=True)]  # from its end
    return np.array(found, np.uint8).reshape(-1, 128)


def _principal_axes(sample: np.ndarray) -> np.ndarray:
    """(128, PROJECTED) float32, of descriptors and of their mirror images, so that both fare alike."""
    if len(sample) < 2:
        return np.eye(128, PROJECTED, dtype=np.float32)
    _, axes = np.linalg.eigh(np.cov(roots(np.concatenate([sample, mirrored(sample)])).T))
    return np.ascontiguousarray(axes[:, : -PROJECTED - 1 : -1], dtype=np.float32)


def _cells(centres: np.ndarray) -> faiss.IndexIVF:
    """Empty cells around centres (n, PROJECTED), which are themselves in regions around some of them."""
    if not len(centres):
        centres = np.zeros((1, PROJECTED), np.float32)
    few = round(len(centres) ** 0.5)
    coarse = faiss.IndexFlatL2(PROJECTED)
    coarse.add(centres[:few])
    regions = faiss.IndexIVFFlat(coarse, PROJECTED, few)
    regions.is_trained, regions.nprobe = True, PROBED  # nothing to train: the centres are given
    regions.add(centres)
    cells = faiss.IndexIVFScalarQuantizer(
        regions, PROJECTED, len(centres), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2, False
    )
    cells.is_trained = True
    return cells
