"""A rerun opens only what changed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.ingest import ingest
from defect_pipeline_tests.imaging.ingest.helpers import (
    H,
    W,
    assert_same,
    drawn_mask,
    id_of,
    picture,
    reasons_by_path,
    spot,
)


def test_reruns_open_only_what_changed(
    folders: Path, opened: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ticks: list[tuple[int, int]] = []
    first = ingest(folders, on_progress=lambda done, total: ticks.append((done, total)))
    assert len(opened) == 16 and ticks == [(done, 8) for done in range(1, 9)]  # image and mask of each
    store = tmp_path_factory.mktemp("store")
    first.save(store)

    opened.clear()
    assert_same(ingest(folders, Dataset.load(store, folders)), first)
    assert not opened

    picture(folders / "MT_Fray" / "f0.jpg", 200)  # its mask is read with it
    drawn_mask(folders / "MT_Pit" / "Imgs" / "p0.png", spot())
    picture(folders / "MT_Fray" / "a_new.jpg")
    drawn_mask(folders / "MT_Fray" / "a_new.png", spot())
    (folders / "MT_Pit" / "Imgs" / "p2.jpg").unlink()
    (folders / "MT_Pit" / "Imgs" / "p2.png").unlink()
    second = ingest(folders, first)
    assert len(opened) == 6
    assert_same(second, ingest(folders))
    assert len(second.masks(id_of(second, "MT_Pit/Imgs/p0.jpg"))) == 1

    opened.clear()
    os.utime(folders / "MT_Fray" / "f1.jpg", ns=(5, 5))
    assert ingest(folders, second).digest == second.digest and len(opened) == 2


@pytest.fixture
def faulty(folders: Path) -> Path:
    """`folders`, and five images that cannot be used for what is in them."""
    pit = folders / "MT_Pit" / "Imgs"
    for name in ("truncated", "bomb", "bad_mask", "other_size", "empty"):
        picture(pit / f"{name}.jpg")
        drawn_mask(pit / f"{name}.png", spot())
    (pit / "truncated.jpg").write_bytes((pit / "truncated.jpg").read_bytes()[:-40])
    picture(pit / "bomb.jpg", size=(200, 200))
    (pit / "bad_mask.png").write_bytes(b"no picture")
    drawn_mask(pit / "other_size.png", spot(shape=(H + 1, W)))
    drawn_mask(pit / "empty.png", np.zeros((H, W)))
    return folders


def test_the_rejected_are_not_opened_again(
    faulty: Path, opened: list[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defect_pipeline.imaging.io.MAX_PIXELS", 10_000)
    first = ingest(faulty)
    assert len(first.images) == 8 and len(first.rejected) == 5
    store = tmp_path_factory.mktemp("store")
    first.save(store)
    opened.clear()
    second = ingest(faulty, Dataset.load(store, faulty))
    assert_same(second, first)
    assert_same(ingest(faulty, second), first)
    assert not opened

    pit = faulty / "MT_Pit" / "Imgs"
    picture(pit / "truncated.jpg")
    drawn_mask(pit / "empty.png", spot())
    third = ingest(faulty, second)
    assert len(opened) == 4 and len(third.images) == 10  # image and mask of each
    assert sorted(reasons_by_path(third)) == [f"MT_Pit/Imgs/{name}.jpg" for name in ("bad_mask", "bomb", "other_size")]


def test_a_broken_memory_is_made_anew(faulty: Path, opened: list[str], tmp_path: Path) -> None:
    store = tmp_path / ".store"
    store.mkdir()
    first = ingest(faulty)
    first.save(store)
    (store / "opened.parquet").write_bytes(b"no table")
    opened.clear()
    second = ingest(faulty, Dataset.load(store, faulty))
    assert len(opened) > 20
    assert_same(second, first)


def test_what_was_not_seen_is_looked_at_again(
    folders: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither permission nor a link is in a file's size and time, so what mends them would go unnoticed."""
    outside = tmp_path_factory.mktemp("outside") / "x.jpg"
    picture(outside)
    link = folders / "MT_Fray" / "link.jpg"
    link.symlink_to(outside)
    drawn_mask(link.with_suffix(".png"), spot())
    locked = folders / "MT_Fray" / "f0.jpg"
    whole = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == locked.name:
            raise PermissionError(13, "Permission denied")
        return whole(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_bytes)
        first = ingest(folders)
    assert set(reasons_by_path(first)) == {"MT_Fray/f0.jpg", "MT_Fray/link.jpg"}
    link.unlink()
    shutil.copy2(outside, link)
    second = ingest(folders, first)
    assert second.rejected.empty and len(second.images) == 9
