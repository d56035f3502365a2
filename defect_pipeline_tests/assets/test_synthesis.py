from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from defect_pipeline.assets.synthesis import is_painted
from defect_pipeline.imaging.sheets import save_png


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
