"""The folder as a whole, and the real ones."""

import io
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.ingest import ingest
from defect_pipeline_tests.imaging.ingest.helpers import H, W, annotation_of, picture, polygon, write_xml

REAL = Path(__file__).parents[4] / "shared" / "data"


def test_a_folder_of_no_layout_is_told_the_three(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    with pytest.raises(PipelineError, match="COCO.*class.*Pascal VOC"):
        ingest(tmp_path)
    with pytest.raises(PipelineError, match="not a folder"):
        ingest(tmp_path / "gone")


def test_too_little_left_stops_with_the_first_reasons(folders: Path) -> None:
    assert ingest(folders, min_defective=3)
    with pytest.raises(PipelineError, match="no defect class is left with 4"):
        ingest(folders, min_defective=4)
    for path in folders.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(PipelineError, match=r"8 files.*f0.jpg: is empty"):
        ingest(folders)


def test_defect_class_is_the_rarest_of_the_image(voc: Path) -> None:
    picture(voc / "JPEGImages" / "e.jpg")
    write_xml(voc / "Annotations" / "e.xml", ("scratch", 2, 2, 9, 9))
    picture(voc / "JPEGImages" / "f.jpg")
    write_xml(voc / "Annotations" / "f.xml", ("scratch", 2, 2, 9, 9))
    dataset = ingest(voc)  # scratch: a b e f, pit: a b c
    assert dataset.images["defect_class"].tolist() == ["pit", "pit", "pit", "", "scratch", "scratch"]


def test_of_ten_thousand_files_the_thousand_bad_ones_are_left_out(tmp_path: Path) -> None:
    """Ingest alone: to find the parts behind so many images takes longer than a test may."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W), np.uint8)).save(encoded := io.BytesIO(), "PNG")
    sound = encoded.getvalue()
    huge = b"IHDR" + b"\x00\x01\x00\x00" * 2 + sound[24:29]  # 65536 x 65536 px, says the header
    faults = {  # content, None where there is no file; and what the reason says
        0: (sound[: len(sound) // 2], "damaged or truncated"),
        10: (b"", "empty (0 bytes)"),
        20: (b"no picture", "not a picture"),
        30: (None, "listed but missing"),
        40: (sound[:12] + huge + zlib.crc32(huge).to_bytes(4, "big") + sound[33:], "decompression bomb"),
    }
    names = [f"{i:05d}.png" for i in range(10_000)]
    for i, name in enumerate(names):
        content, _ = faults.get(i % 50, (sound, ""))
        if content is not None:
            (tmp_path / name).write_bytes(content)
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [annotation_of(i, i, polygon(4, 6, 5, 8)) for i in range(len(names))],
        "categories": [{"id": 1, "name": "pit"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    dataset = ingest(tmp_path)
    bad = {name: faults[i % 50][1] for i, name in enumerate(names) if i % 50 in faults}
    assert dataset.images["path"].tolist() == [name for name in names if name not in bad]
    assert len(dataset.instances) == 9_000 and Counter(dataset.rejected["path"]) == dict.fromkeys(bad, 1)
    told = dict(zip(dataset.rejected["path"], dataset.rejected["reason"], strict=True))
    assert all(reason in told[name] for name, reason in bad.items())
    assert (dataset.rejected["remedy"] != "").all()


def _real(name: str, tmp_path: Path, keep: Callable[[Path], bool]) -> Path:
    """A copy of some of the real files, to keep the test short."""
    if not (REAL / name).is_dir():
        pytest.skip(f"the real images are not here: no {name} in {REAL}")
    for path in (REAL / name).rglob("*.*"):
        if keep(path):
            target = tmp_path / path.relative_to(REAL / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return tmp_path


def test_magnetic_tile(tmp_path: Path) -> None:
    root = _real("magnetic-tile", tmp_path, lambda path: "MT_Free" not in path.parts or path.stem.endswith("00"))
    dataset = ingest(root)
    assert dataset.categories == ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")
    assert dataset.images["defect_class"].value_counts()[["MT_Blowhole", "MT_Uneven"]].tolist() == [81, 74]
    assert {dataset.images.at[image_id, "path"].split("/")[0] for image_id in dataset.defect_free()} == {"MT_Free"}
    assert len(dataset.rejected) == 4 and dataset.rejected["path"].str.startswith("MT_Uneven").all()
    assert dataset.rejected["reason"].str.startswith("empty mask").all()


def test_neu_det(tmp_path: Path) -> None:
    dataset = ingest(_real("neu-det", tmp_path, lambda path: path.stem.endswith("7")))
    classes = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    assert dataset.categories == classes and dataset.rejected.empty and not dataset.defect_free()
    assert set(dataset.instances["source"]) == {"mask", "box"}
