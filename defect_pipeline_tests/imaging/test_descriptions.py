"""An image is described once, and what is kept of it is never trusted blindly."""

import os
from pathlib import Path

import numpy as np
import pytest

from defect_pipeline.imaging import descriptions
from defect_pipeline.imaging.descriptions import described, forget_others, read_gallery, write_gallery
from defect_pipeline.imaging.groups import Description, describe
from defect_pipeline_tests.imaging.test_groups import surface

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one for each image that is described."""
    calls: list[str] = []

    def counting(image: np.ndarray) -> Description:
        calls.append("described")
        return describe(image)

    monkeypatch.setattr(descriptions, "describe", counting)
    return calls


def _check(found: Description) -> None:
    for array, expected in zip(found, describe(IMAGE), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype


def test_a_second_look_neither_reads_nor_describes(tmp_path: Path, calls: list[str]) -> None:
    _check(described(tmp_path, "aa", lambda: IMAGE))
    _check(described(tmp_path, "aa", lambda: pytest.fail("read again")))
    assert len(calls) == 1
    described(tmp_path, "bb", lambda: IMAGE[:, ::-1])
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 2


def test_an_image_without_features_is_kept_too(tmp_path: Path, calls: list[str]) -> None:
    for _ in range(2):
        assert described(tmp_path, "aa", lambda: np.zeros((20, 30, 3), np.uint8)).points.shape == (0, 2)
    assert len(calls) == 1


def test_damage_is_noticed_and_mended(tmp_path: Path, calls: list[str]) -> None:
    described(tmp_path, "aa", lambda: IMAGE)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for number, content in enumerate((b"", b"none", whole[:-1], whole[:middle], flipped, bytes(len(whole))), start=2):
        file.write_bytes(content)
        _check(described(tmp_path, "aa", lambda: IMAGE))
        assert len(calls) == number and list(tmp_path.iterdir()) == [file]
        _check(described(tmp_path, "aa", lambda: pytest.fail("not mended")))


def test_another_edition_describes_anew_and_goes(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    described(tmp_path, "aa", lambda: IMAGE)
    monkeypatch.setattr(descriptions, "EDITION", "2")
    described(tmp_path, "aa", lambda: IMAGE)
    described(tmp_path, "bb", lambda: IMAGE)
    assert len(calls) == 3
    forget_others(tmp_path, {"aa"})
    assert [path.name for path in tmp_path.iterdir()] == ["aa-2.description"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="space"):
        described(tmp_path, "aa", lambda: IMAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_comes_back_as_it_was(tmp_path: Path) -> None:
    images = {key: surface(seed) for seed, key in enumerate(("aa", "bb", "cc", "dd"))}
    images["ee"] = np.ascontiguousarray(images["dd"][:, ::-1])
    gallery = read_gallery(tmp_path)
    assert not gallery.index.numbers
    gallery.update(images, lambda key: describe(images[key]))
    assert gallery.links == {("dd", "ee")}
    write_gallery(tmp_path, gallery)
    forget_others(tmp_path, images)
    kept = read_gallery(tmp_path)
    assert kept.links == gallery.links and kept.index.numbers == gallery.index.numbers
    kept.update(images, lambda key: pytest.fail("compared again"))
    images["ff"] = np.ascontiguousarray(images["dd"][::-1])
    kept.update(images, lambda key: describe(images[key]))
    assert len(set(kept.labels(list(images)))) == 4
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert not read_gallery(tmp_path).index.numbers
