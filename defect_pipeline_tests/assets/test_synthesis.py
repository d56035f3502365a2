from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from defect_pipeline.assets.synthesis import MARGIN, is_painted, strength_map
from defect_pipeline.imaging.sheets import save_png


def test_strength_falls_from_the_mask_to_the_surroundings():
    mask = np.zeros((64, 64), bool)
    mask[:, 10] = True
    row = strength_map(mask, 0.2, fade=10)[32]
    assert (row[10 - MARGIN : 11 + MARGIN] == 1).all() and (row[10 + MARGIN + 10 :] == np.float32(0.2)).all()
    assert row[10 + MARGIN + 5] == pytest.approx(0.6) and (np.diff(row[10:]) <= 0).all()


def test_without_a_fade_there_is_a_step():
    mask = np.zeros((16, 16), bool)
    mask[8, 8] = True
    strengths = strength_map(mask, 0.3, fade=0)
    assert set(strengths.ravel().tolist()) == {1.0, float(np.float32(0.3))}
    assert strengths[8, 8 + MARGIN] == 1 and strengths[8, 8 + MARGIN + 1] < 1


@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:300] + b"x" + content[301:],
    ],
    ids=["empty", "cut off", "other bytes"],
)
def test_what_was_painted_before_a_kill_counts_where_it_is_whole(
    damaged: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "0001_00.png"
    assert not is_painted(file)
    save_png(file, np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    assert is_painted(file) and not caplog.records
    file.write_bytes(damaged(file.read_bytes()))
    assert not is_painted(file) and f"{file} is damaged" in caplog.text
