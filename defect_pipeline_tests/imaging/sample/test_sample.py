"""The sample data set: complete, deterministic and sound as COCO."""

import contextlib
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from defect_pipeline.imaging import sample
from defect_pipeline.imaging.coco import coco_problems
from defect_pipeline.imaging.sample import make_sample
from defect_pipeline.imaging.sample.camera import SIDE
from defect_pipeline.imaging.sample.defects import DEFECTS


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole set, as a user gets it."""
    target = tmp_path_factory.mktemp("sample")
    make_sample(target)
    return target


@pytest.fixture(scope="module")
def coco(directory: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(directory / "annotations.json")


def _class_of(coco: COCO, image_id: int) -> str:
    names = {coco.cats[annotation["category_id"]]["name"] for annotation in coco.imgToAnns[image_id]}
    assert len(names) <= 1
    return names.pop() if names else ""


def test_is_sound_coco_under_a_free_licence(directory: Path) -> None:
    document = json.loads((directory / "annotations.json").read_text())
    assert coco_problems(document, directory) == []
    assert {image["license"] for image in document["images"]} == {entry["id"] for entry in document["licenses"]}
    assert [entry["name"] for entry in document["licenses"]] == ["CC0-1.0"]
    forms = {type(annotation["segmentation"]) for annotation in document["annotations"]}
    assert forms == {list, dict}  # polygons, and RLE for instances with holes


def test_has_enough_images_of_each_class_and_no_stray_files(directory: Path, coco: COCO) -> None:
    counts = Counter(_class_of(coco, image_id) for image_id in coco.imgs)
    assert all(counts[category] >= 18 for category in DEFECTS)
    assert counts[""] >= 44
    listed = {image["file_name"] for image in coco.imgs.values()}
    assert listed | {"annotations.json"} == {p.relative_to(directory).as_posix() for p in directory.rglob("*.*")}
    for image_id, image in coco.imgs.items():
        assert image["file_name"].startswith("images/") == bool(coco.imgToAnns[image_id])
    assert sum(path.stat().st_size for path in directory.rglob("*.png")) < 14e6


def test_parts_are_photographed_more_than_once_and_names_do_not_tell(coco: COCO) -> None:
    views = defaultdict(list)
    for image_id, image in coco.imgs.items():
        views[image["part"]].append(image_id)
    assert len(views) >= 36
    assert all(2 <= len(ids) <= 4 for ids in views.values())
    assert all(len({_class_of(coco, image_id) for image_id in ids}) == 1 for ids in views.values())
    gaps = [abs(one - other) for ids in views.values() for one, other in zip(ids[:-1], ids[1:], strict=True)]
    assert np.median(gaps) > 5


@pytest.mark.parametrize(
    ("category", "low", "high"), [("burn", 5, 12), ("crack", 1, 2), ("pit", 1, 3), ("scratch", 1, 2.2)]
)
def test_defects_are_of_a_size_to_be_learned(coco: COCO, category: str, low: float, high: float) -> None:
    covered: Counter[int] = Counter()
    for annotation in coco.anns.values():
        if coco.cats[annotation["category_id"]]["name"] == category:
            covered[annotation["image_id"]] += annotation["area"]
    assert low <= np.median(list(covered.values())) / SIDE**2 * 100 <= high


def test_same_seed_same_bytes_another_seed_another_set(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "VIEWS", (1,))
    monkeypatch.setattr(sample, "FREE_VIEWS", (1,))
    files = []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        make_sample(tmp_path / name, seed)
        paths = sorted((tmp_path / name).rglob("*.*"))
        files.append({path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in paths})
    assert files[0] == files[1]
    assert not set(files[0].values()) & set(files[2].values())
