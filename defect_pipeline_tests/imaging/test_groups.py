import hashlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.cluster.hierarchy import DisjointSet

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging import groups
from defect_pipeline.imaging.groups import CANDIDATES, NEARER, Description, Gallery, describe, part_ids_of, same_part
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.neighbours import roots

REAL = Path("../shared/data/magnetic-tile")
SIDE = 160


def surface(seed: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: grain of several sizes, as cast or brushed metal has it."""
    rng = np.random.default_rng(seed)
    grain = np.zeros((SIDE, SIDE), np.float32)
    for sigma in (1, 2, 4, 9):
        noise = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), sigma)
        grain += noise / noise.std()
    return np.repeat(np.clip(120 + 14 * grain, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def stamped(image: np.ndarray) -> np.ndarray:
    """With the features of a common design: a grid of holes and a seam, at the same places in each image."""
    image = image.copy()
    for x in range(20, SIDE, 40):
        for y in range(20, SIDE, 40):
            cv2.circle(image, (x, y), 8, (15, 15, 15), -1, cv2.LINE_AA)
            cv2.circle(image, (x, y), 9, (220, 220, 220), 1, cv2.LINE_AA)
    cv2.line(image, (0, 63), (SIDE, 78), (30, 30, 30), 2, cv2.LINE_AA)
    return image


def perforated(image: np.ndarray) -> np.ndarray:
    """With rows of holes, and little grain between them."""
    plate = (128 + 0.3 * (image - 128.0)).astype(np.uint8)
    for x in range(16, SIDE, 32):
        for y in range(16, SIDE, 32):
            cv2.circle(plate, (x, y), 8, (20, 20, 20), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(plate, (0, 0), 1.2)


def exposed(image: np.ndarray, gain: float, gamma: float) -> np.ndarray:
    return np.clip(255 * gain * (image / 255) ** gamma, 0, 255).astype(np.uint8)


def lit_from_one_side(image: np.ndarray) -> np.ndarray:
    return (image * np.linspace(0.3, 1.4, image.shape[1])[:, None]).clip(0, 255).astype(np.uint8)


def turned(image: np.ndarray, degrees: float, zoom: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, zoom)
    return cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(7).normal(0, 4, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "under-exposed": lambda image: exposed(image, 0.3, 1),
    "over-exposed": lambda image: exposed(image, 1.6, 0.7),
    "lit from one side": lit_from_one_side,
    "flipped left to right": lambda image: image[:, ::-1],
    "flipped upside down": lambda image: image[::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "transposed": lambda image: image.swapaxes(0, 1),
    "cropped to 80 %": lambda image: image[25:153, 10:138],
    "turned a little": lambda image: turned(image, 5, 1.08),
    "noisy": noisy,
    "all at once": lambda image: noisy(exposed(turned(image, -4, 0.95)[10:150, 15:150], 0.7, 1.2))[:, ::-1],
}


def keys_of(images: list[np.ndarray]) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def groups_of(images: list[np.ndarray], part_ids: list[str | None] | None = None) -> list[str]:
    return compared(Gallery(), images).labels(keys_of(images), part_ids)


def compared(gallery: Gallery, images: list[np.ndarray]) -> Gallery:
    """A gallery when it is of these images."""
    by_key = dict(zip(keys_of(images), images, strict=True))
    gallery.update(by_key, lambda key: describe(np.ascontiguousarray(by_key[key])))
    return gallery


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Grows by one for each pair of images that is compared: the `detail` of both."""
    pairs = []

    def noting(one: Description, other: Description, flipped: bool) -> bool:
        pairs.append((one.detail, other.detail))
        return same_part(one, other, flipped)

    monkeypatch.setattr(groups, "same_part", noting)
    return pairs


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_a_part_joins_it_and_no_other(view: str) -> None:
    parts = [surface(seed) for seed in range(5)]
    labels = groups_of([*parts, VIEWS[view](parts[2])])
    assert labels[5] == labels[2]
    assert len(set(labels)) == 5


def test_all_views_of_several_parts_fall_into_these_parts() -> None:
    parts = [surface(seed) for seed in range(6)]
    images = [change(part) for part in parts for change in VIEWS.values()]
    labels = groups_of(images)
    truth = np.repeat(np.arange(len(parts)), len(VIEWS))
    assert [labels[i] == labels[j] for i in range(len(images)) for j in range(i)] == [
        truth[i] == truth[j] for i in range(len(images)) for j in range(i)
    ]


def test_matches_are_each_others_nearest_and_clearly_so() -> None:
    part = surface(3)
    ours, theirs = describe(part).descriptors, describe(turned(part, 5, 1.08)).descriptors
    distances = ((roots(ours)[:, None] - roots(theirs)) ** 2).sum(axis=2)
    expected = []
    for row, others in enumerate(distances):
        best, second = np.sort(others)[:2]
        nearest = int(np.argmin(others))
        if best < NEARER**2 * second and np.argmin(distances[:, nearest]) == row:
            expected.append((row, nearest))
    assert len(expected) > groups.MIN_INLIERS
    assert [*zip(*(side.tolist() for side in groups._matches(ours, theirs)), strict=True)] == expected


def test_neighbouring_frames_that_overlap_by_half_chain_up() -> None:
    wide = np.concatenate([surface(20), surface(21)], axis=1)
    frames = [wide[:, left : left + SIDE] for left in (0, SIDE // 2, SIDE)]
    assert len(set(groups_of(frames))) == 1


def test_parts_of_one_design_stay_apart() -> None:
    parts = [stamped(surface(seed)) for seed in range(6)]
    images = [change(part) for part in parts for change in (np.asarray, lambda image: exposed(image, 0.7, 1.1))]
    labels = groups_of(images)
    assert len(set(labels)) == 6
    assert labels[::2] == labels[1::2]


def test_plates_with_the_same_rows_of_holes_stay_apart_and_their_views_do_not() -> None:
    plates = [perforated(surface(seed)) for seed in range(6)]
    moved = [turned(plates[0], 180, 1), turned(plates[1], 90, 1)]  # the rows of holes lie on those of all others
    labels = groups_of([*plates, *moved, *(change(plates[2]) for change in VIEWS.values())])
    assert len(set(labels[:6])) == 6
    assert labels[6:] == [labels[0], labels[1], *[labels[2]] * len(VIEWS)]


def test_empty_and_tiny_images_are_groups_of_their_own() -> None:
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((50, 80, 3), 255, np.uint8)
    assert len(set(groups_of([black, white, surface(0), surface(1)[:5, :7]]))) == 4
    assert groups_of([]) == []


def test_the_same_content_is_the_same_part() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    labels = groups_of([black, surface(0), black])
    assert labels[0] == labels[2] != labels[1]


def test_groups_do_not_depend_on_the_order_of_the_images() -> None:
    views = ("under-exposed", "transposed", "turned a little")
    images = [VIEWS[view](surface(seed)) for seed in range(4) for view in views]
    order = np.random.default_rng(0).permutation(len(images))
    labels = groups_of(images)
    assert [labels[i] for i in order] == groups_of([images[i] for i in order])


def test_what_memory_does_not_hold_is_described_again(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image for part in map(surface, range(3)) for image in (part, noisy(part), exposed(part, 0.8, 1.2))]
    expected, calls = groups_of(images), []
    monkeypatch.setattr(groups, "KEPT", 2)
    by_key = dict(zip(keys_of(images), images, strict=True))
    gallery = Gallery()
    gallery.update(by_key, lambda key: calls.append(key) or describe(by_key[key]))
    assert gallery.labels(keys_of(images)) == expected and len(calls) > len(images)


def test_groups_are_those_of_comparing_every_image_with_every_other() -> None:
    images = [VIEWS[view](surface(seed)) for seed in range(4) for view in ("noisy", "transposed", "cropped to 80 %")]
    described = [describe(np.ascontiguousarray(image)) for image in images]
    every = DisjointSet(range(len(images)))
    for one, other in combinations(every, 2):
        if any(same_part(described[one], described[other], flipped) for flipped in (False, True)):
            every.merge(one, other)
    labels = groups_of(images)
    assert {frozenset(np.flatnonzero(np.array(labels) == label)) for label in labels} == set(
        map(frozenset, every.subsets())
    )


def test_only_pairs_with_a_new_image_are_compared(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    old = [VIEWS[view](surface(seed)) for seed in range(6) for view in ("under-exposed", "transposed")]
    new = [VIEWS["turned a little"](surface(3)), surface(9)]
    gallery = compared(Gallery(), old)
    pairs.clear()
    labels = compared(gallery, old + new).labels(keys_of(old + new))
    details = [describe(image).detail for image in new]
    assert 0 < len(pairs) <= 2 * CANDIDATES * len(new)  # who finds its part asks a second time
    assert all(
        any(side is detail or np.array_equal(side, detail) for side in pair for detail in details) for pair in pairs
    )
    assert labels == groups_of(old + new)
    pairs.clear()
    assert compared(gallery, new + old).labels(keys_of(old + new)) == labels and not pairs


def test_who_was_linked_to_an_image_that_goes_is_compared_anew() -> None:
    images = [VIEWS[view](surface(0)) for view in ("noisy", "transposed", "under-exposed")] + [surface(1)]
    for gone in range(3):
        gallery = compared(Gallery(), images)
        left = [image for k, image in enumerate(images) if k != gone]
        labels = compared(gallery, left).labels(keys_of(left))
        assert labels[0] == labels[1] != labels[2]
    wide = np.concatenate([surface(20), surface(21)], axis=1)
    frames = [wide[:, left : left + SIDE] for left in (0, SIDE // 2, SIDE)]
    gallery = compared(Gallery(), frames)
    assert len(set(gallery.labels(keys_of(frames)))) == 1
    assert len(set(compared(gallery, frames[::2]).labels(keys_of(frames[::2])))) == 2


def test_the_index_is_laid_out_anew_when_it_has_outgrown_its_cells() -> None:
    parts = [surface(seed) for seed in range(7)]
    gallery = compared(Gallery(), parts[:3])
    assert compared(gallery, parts[:6]).index.planned == 3
    assert (
        len(set(compared(gallery, [*parts, parts[2][::-1]]).labels(keys_of(parts)))) == gallery.index.planned - 1 == 7
    )


def test_a_label_is_the_beginning_of_the_smallest_key() -> None:
    images = [surface(0), surface(0)[::-1], surface(1)]
    keys = keys_of(images)
    assert groups_of(images) == [min(keys[:2])[:12]] * 2 + [keys[2][:12]]


def test_part_ids_unite_what_pixels_do_not_show() -> None:
    images = [surface(0), surface(1), surface(0)[:, ::-1], surface(2)]
    labels = groups_of(images, ["a", "a", None, None])
    assert labels[0] == labels[1] == labels[2] != labels[3]


def test_part_ids_come_from_file_names() -> None:
    paths = ["run1/blade_0012_view3.png", "run2/blade_0012_view1.png", "notes.png"]
    assert part_ids_of(paths, r"blade_(\d+)_") == ["0012", "0012", None]
    assert part_ids_of(paths, r"run(\d)/blade_(?P<part>\d+)") == ["0012", "0012", None]
    for regex in (r"blade_\d+", r"(a)(b)", r"(blade"):
        with pytest.raises(PipelineError, match="part regex"):
            part_ids_of(paths, regex)


def test_exposures_of_real_tiles_are_found() -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here: the magnetic-tile images are not part of the project")
    tiles = [  # numbered in the order in which the photographs were taken
        [f"MT_Blowhole/Imgs/exp{e}_num_{n}.jpg" for e, n in zip((1, 2, 3, 4, 5, 6), numbers, strict=True)]
        for numbers in ((4944, 4964, 4978, 4995, 5022, 5106), (6984, 7009, 7023, 7036, 7054, 7102))
    ]
    paths = [path for tile in tiles for path in tile]
    labels = groups_of([read_image(REAL / path) for path in paths])
    assert len(set(labels[:6])) == len(set(labels[6:])) == 1
    assert labels[0] != labels[6]
