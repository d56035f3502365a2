"""What a user is told when `defect-pipeline run` cannot do its work: one sentence that names what is wrong and what helps."""

import errno
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from defect_pipeline import profiles
from defect_pipeline.automation import instance
from defect_pipeline.cli import main
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.store import Store

CLEAN = "clean"


def add(folder: Path, *stems: str) -> None:
    """Photographs of 64 x 64 px of noise, each with a mask; an empty one in the folder of the defect-free."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 10:30] = 0 if folder.name == CLEAN else 255
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        noise = np.random.default_rng(list(f"{folder.name}{stem}".encode())).integers(90, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{stem}.jpg")
        Image.fromarray(mask).save(folder / f"{stem}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images of one class and six without a defect."""
    for name in ("pit", CLEAN):
        add(tmp_path / "data" / name, *"abcdef")
    return tmp_path / "data"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run on a folder; the one line that it ends with on stderr."""
    monkeypatch.setenv("DAGSTER_HOME", "")  # both are put back to what they were
    monkeypatch.setenv("DEFECT_PIPELINE_STORE", "")

    def run(data: Path, profile: str = "embedded") -> str:
        capfd.readouterr()
        arguments = ["--data", str(data), "--store", str(tmp_path / "store"), "--profile", profile]
        assert main(["run", *arguments]) == 1
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run


def test_an_unknown_profile(data: Path, told) -> None:
    said = "Error: There is no profile 'sd51'; use one of embedded, sd15, papers, or the path of a TOML file."
    assert told(data, "sd51") == f"{said} Did you mean sd15?"


def test_a_data_folder_that_does_not_exist(tmp_path: Path, told) -> None:
    folder = tmp_path / "dta"
    assert told(folder) == f"Error: There is no folder {folder}; name the folder of your images with --data."


def test_a_store_that_is_a_file(data: Path, tmp_path: Path, told) -> None:
    (tmp_path / "store").touch()
    assert told(data).endswith(
        f"{tmp_path / 'store'} cannot be a store (File exists); name another folder with --store."
    )


@pytest.mark.parametrize("note", ["", '{"data": "', "[]", '{"colour": "red"}'])
def test_a_note_that_somebody_has_edited(note: str, data: Path, tmp_path: Path, told) -> None:
    (tmp_path / "store").mkdir()
    file = tmp_path / "store" / "pipeline.json"
    file.write_text(note)
    line = told(data)
    assert line.startswith(f"Error: {file} cannot be read (") and "remove it, and run again with --data" in line


def test_an_empty_data_folder(tmp_path: Path, told) -> None:
    (tmp_path / "data").mkdir()
    line = told(tmp_path / "data")
    assert line.startswith(f"Failed: prepare: {tmp_path / 'data'} has none of the three layouts")
    assert "give it annotations.json (COCO), a folder for each class" in line


def test_one_image_in_each_class(tmp_path: Path, told) -> None:
    for name in ("pit", "fray", CLEAN):
        add(tmp_path / "data" / name, "a")
    line = told(tmp_path / "data")
    assert line.startswith(f"Failed: prepare: {tmp_path / 'data'}: no defect class is left with 2 usable images")
    assert line.endswith("add images.")


def test_one_image_in_one_class(data: Path, told) -> None:
    add(data / "fray", "a")
    line = told(data)
    assert line.startswith("Failed: prepare: Class 'fray' has one image only (fray/a.jpg)")
    assert line.endswith("add images of other parts, or take the class out.")


def test_a_class_that_only_the_test_split_has(
    data: Path, tmp_path: Path, told, capfd: pytest.CaptureFixture[str]
) -> None:
    add(data / "pit", *"ghij")
    assert main(["manifest", "--csv", "--data", str(data), "--store", str(tmp_path / "store")]) == 0
    rows = [row.split(",") for row in capfd.readouterr().out.splitlines()]
    held_out = [Path(path) for path, defect_class, _, split in rows if (defect_class, split) == ("pit", "test")]
    assert len(held_out) > 1
    (data / "fray").mkdir()
    for path in held_out:  # somebody looks again and finds that these are of another class
        for file in (data / path, (data / path).with_suffix(".png")):
            file.rename(data / "fray" / file.name)
    line = told(data)
    assert line.startswith("Failed: prepare: Class 'fray' is in test but not in train")
    assert "add images of other parts with it" in line


def test_no_defect_free_images(data: Path, told) -> None:
    shutil.rmtree(data / CLEAN)
    line = told(data)
    assert line.startswith(f"Failed: prepare: There are no defect-free images under {data}")
    assert "Add images without a defect" in line


def test_a_missing_backbone(data: Path, tmp_path: Path, told, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = replace(profiles.EMBEDDED.drivers, size=64, crops=1)
    few = {"pool": profiles.Pool(2, 2), "masks": profiles.Masks(2), "drivers": drivers}
    lost = replace(profiles.EMBEDDED, backbone=str(tmp_path / "lost"), **few)
    monkeypatch.setitem(profiles.PROFILES, "lost", lost)
    line = told(data, "lost")
    assert line.startswith(f"Failed: learn: The backbone directory {tmp_path / 'lost'} has no tokenizer")
    assert "point the profile's `backbone` at a diffusers model directory, or restore" in line


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _locked_out(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("place", ["note", "artifact", "history"])
def test_a_full_disk(place: str, data: Path, tmp_path: Path, told, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        if place == "note":
            patch.setattr(Path, "write_bytes", _full)
        elif place == "artifact":
            patch.setattr(Dataset, "save", _full)
        else:  # SQLite's word for it says little
            patch.setattr(instance, "close_killed_runs", _locked_out)
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
        line = told(data)
    assert line.startswith("Failed: prepare: The disk of" if place == "artifact" else "Error: The disk of")
    assert str(tmp_path / "store") in line
    assert "make room, or name another folder with --store; the same command goes on where it stopped." in line
    assert Store(root=str(tmp_path / "store")).partitions("inspection_images") == []


def test_the_ui_listens_on_this_machine_alone(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "pipeline.json").write_text(json.dumps({"data": str(data)}))
    started = []
    monkeypatch.setattr(os, "execvpe", lambda file, command, environment: started.append(command))
    main(["ui", "--store", str(tmp_path / "store")])
    (command,) = started
    hosts = [value for option, value in pairwise(command) if option in ("-h", "--host", "--dagit-host")]
    assert hosts == ["127.0.0.1"]
