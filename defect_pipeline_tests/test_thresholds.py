"""The thresholds file: what it overrides, and what it is told when it is wrong."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from defect_pipeline.assets.stage import Pipeline
from defect_pipeline.errors import PipelineError
from defect_pipeline.profiles import EMBEDDED, Thresholds
from defect_pipeline.thresholds import read_thresholds
from defect_pipeline.workplace import Workplace

DEFAULTS = Thresholds(kid=0.7, fid=350.0, per_class={"pit": {"kid": 0.1}})


@pytest.fixture
def read(tmp_path: Path):
    def write(text: str) -> Thresholds:
        (tmp_path / "thresholds.toml").write_text(text)
        return read_thresholds(tmp_path / "thresholds.toml", DEFAULTS)

    return write


def test_an_empty_file_changes_nothing(read) -> None:
    assert read("") == DEFAULTS


def test_a_class_has_its_own_and_the_rest_from_all_and_the_rest_of_that_from_the_profile(read) -> None:
    found = read('kid = 0.5\ncopies = 0\n[per_class."rolled-in scale"]\nfid = 90\naccepted = 0.9')
    assert found.of("pit") == replace(DEFAULTS, kid=0.1, copies=0, per_class={})
    assert found.of("rolled-in scale") == replace(DEFAULTS, kid=0.5, copies=0, fid=90, accepted=0.9, per_class={})
    assert found.of("another") == replace(DEFAULTS, kid=0.5, copies=0, per_class={})


def test_a_gate_may_be_open(read) -> None:
    assert read("fid = inf").fid == math.inf


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kdi = 0.5", r"thresholds\.toml: there is no threshold 'kdi'; use kid, fid, in_mask, copies, accepted\."),
        ("[per_class.pit]\nkdi = 1", r"thresholds\.toml, \[per_class\.pit\]: there is no threshold 'kdi'"),
        ("[pit]\nkid = 0.5", r"there is no threshold 'pit'"),
        ("copies = 5", r"copies is 5; it is a number from 0 to 1\."),
        ("accepted = -0.1", r"accepted is -0\.1"),
        ("fid = -1", r"fid is -1; it is a number from 0 to inf\."),
        ("kid = nan", r"kid is nan"),
        ("kid = true", r"kid is True"),
        ('kid = "0.5"', r"kid is '0\.5'"),
        ("kid: 0.5", r"is not TOML \(.*line 1.*\): correct it"),
        ("per_class = 3", r"per_class is no table; write \[per_class\.NAME\]"),
        ("per_class.pit = 3", r"per_class\.pit is no table; write \[per_class\.pit\]"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str, read) -> None:
    with pytest.raises(PipelineError, match=said):
        read(text)


def test_a_file_that_is_not_there_is_named_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"lost\.toml cannot be read \(No such file or directory\).*--thresholds"):
        Workplace(tmp_path / "store", thresholds=str(tmp_path / "lost.toml")).open()
    assert not (tmp_path / "store").exists()


def test_a_class_that_the_images_do_not_show_is_named() -> None:
    DEFAULTS.check_classes(["burn", "pit"])
    with pytest.raises(PipelineError, match="a class 'pit', but the images show burn, scratch"):
        DEFAULTS.check_classes(["burn", "scratch"])


def test_only_what_an_artifact_looks_at_is_part_of_its_digest(tmp_path: Path) -> None:
    assert DEFAULTS.over_classes("kid") == (0.7, {"pit": 0.1})
    assert DEFAULTS.over_classes("fid") == 350.0


def test_the_store_remembers_the_file_wherever_it_is_asked_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "gate.toml").write_text("kid = 0.01")
    monkeypatch.chdir(tmp_path)
    Workplace(tmp_path / "store", data="data", thresholds="gate.toml").open()
    monkeypatch.chdir(tmp_path / "data")
    place = Workplace.at(tmp_path / "store")
    assert place.pipeline.settings.thresholds == replace(EMBEDDED.thresholds, kid=0.01)
    assert Pipeline(data="").settings.thresholds == EMBEDDED.thresholds
    Workplace.at(tmp_path / "store", thresholds="").open()  # gives it up again
    assert Workplace.at(tmp_path / "store").pipeline.settings.thresholds == EMBEDDED.thresholds
