"""A rerun opens only what changed."""

import os
from pathlib import Path

import pytest

from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.ingest import ingest
from defect_pipeline_tests.imaging.ingest.helpers import assert_same, drawn_mask, id_of, picture, spot


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
