"""The data folder is looked into only when it is at rest."""

import os
from pathlib import Path

from defect_pipeline.automation.sensor import EMPTY, SETTLE, Snapshot, reason_to_wait
from defect_pipeline.imaging.ingest import scan

NOW = 1_800_000_000 * 10**9
OLD = NOW - 10 * EMPTY * 10**9
REST = {"a.png": (10, OLD), "b.png": (20, OLD)}


def ago(seconds: float) -> int:
    return NOW - int(seconds * 1e9)


def after(before: dict | None, files: dict) -> str | None:
    return reason_to_wait(None if before is None else Snapshot.of(before), files, NOW)


def test_a_folder_at_rest_is_ready_at_the_second_look() -> None:
    assert "2 files" in (after(None, REST) or "")
    assert after(REST, REST) is None
    assert after({}, {}) is None
    assert after(REST, dict(reversed(REST.items()))) is None


def test_new_changed_and_removed_files_are_changes() -> None:
    for changed in (
        REST | {"c.png": (5, OLD)},
        REST | {"b.png": (21, OLD)},
        REST | {"b.png": (20, OLD + 1)},
        {"a.png": (10, OLD)},
        {"a.png": (10, OLD), "c.png": (20, OLD)},
    ):
        assert "changed" in (after(REST, changed) or "")
        assert after(changed, changed) is None


def test_a_half_copied_file_waits_though_two_looks_saw_the_same() -> None:
    for stamp in ((10, ago(SETTLE - 1)), (0, ago(SETTLE + 1)), (0, ago(EMPTY - 1)), (10, ago(-5))):
        files = REST | {"c.png": stamp}
        assert "c.png" in (after(files, files) or "")
    for stamp in ((10, ago(SETTLE + 1)), (0, ago(EMPTY + 1)), (0, 0)):  # (0, 0): a broken link, for ingest to reject
        files = REST | {"c.png": stamp}
        assert after(files, files) is None


def test_a_clock_that_is_set_back_makes_it_wait_a_little_and_not_for_ever() -> None:
    files = REST | {"c.png": (10, NOW)}

    def at(seconds: int) -> str:
        return reason_to_wait(Snapshot.of(files), files, NOW + seconds * 10**9) or ""

    assert "c.png" in at(-SETTLE // 2) and "c.png" in at(SETTLE // 2)
    assert at(-10 * SETTLE) == at(-EMPTY) == at(SETTLE) == ""


def test_the_reason_names_a_few_files_only() -> None:
    reason = after(None, {f"{k}.png": (1, NOW) for k in range(9)}) or ""
    assert "0.png, 1.png, 2.png and 6 more" in reason and "3.png" not in reason


def test_the_cursor_comes_back_and_stays_small() -> None:
    look = Snapshot.of({f"{k}.png": (k, k) for k in range(10_000)})
    assert Snapshot.from_cursor(look.cursor) == look and len(look.cursor) < 100
    for other in (None, "", "0123456789abcdef", "[1]", '{"digest": "a"}'):
        assert Snapshot.from_cursor(other) is None


def test_a_copy_under_a_temporary_name_counts_from_its_renaming(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"whole")
    os.utime(tmp_path / "a.png", ns=(OLD, OLD))
    before = scan(tmp_path)
    for name in ("b.png.part", ".b.png.x7Yq", "b.png~", "b.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert after(before, scan(tmp_path)) is None
    (tmp_path / "b.png.part").rename(tmp_path / "b.png")
    os.utime(tmp_path / "b.png", ns=(NOW, NOW))
    assert "b.png" in (after(before, scan(tmp_path)) or "")
    os.utime(tmp_path / "b.png", ns=(OLD, OLD))  # as tools do that keep times
    assert "changed" in (after(before, scan(tmp_path)) or "")
