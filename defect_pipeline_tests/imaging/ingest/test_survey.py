"""What a look at the folder sees."""

from pathlib import Path

from defect_pipeline.imaging.ingest import scan
from defect_pipeline_tests.imaging.ingest.helpers import picture


def test_scan_sees_what_matters(folders: Path) -> None:
    before = scan(folders)
    (folders / "notes.txt").write_text("x")
    (folders / ".hidden").mkdir()
    picture(folders / ".hidden" / "x.png")
    assert scan(folders) == before and len(before) == 16
    picture(folders / "MT_Fray" / "f0.jpg", 99)
    (folders / "MT_Pit" / "Imgs" / "p1.jpg").unlink()
    after = scan(folders)
    assert {path for path in before | after if before.get(path) != after.get(path)} == {
        "MT_Fray/f0.jpg",
        "MT_Pit/Imgs/p1.jpg",
    }
