"""`defect-pipeline check`: verdicts for programs, exit codes, and which images a failing class names."""

import json
import math
from pathlib import Path

import pytest

from defect_pipeline.assets.checks import Verdict
from defect_pipeline.cli import main
from defect_pipeline.store import Store
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.summary.conftest import DIGEST, NASTY

KEYS = ["check", "asset", "class", "passed", "figures", "problems", "worst_by", "worst_images"]


def profile_of(thresholds: str) -> str:
    """A profile's file with these thresholds."""
    return f'base = "embedded"\n[thresholds]\n{thresholds.replace("[per_class", "[thresholds.per_class")}'


@pytest.fixture
def checked(stopped: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def check(thresholds: str = "kid = 99\nfid = inf\nin_mask = 0") -> tuple[int, dict]:
        (tmp_path / "thresholds.toml").write_text(profile_of(thresholds))
        capsys.readouterr()
        options = ["--store", str(stopped.store_root), "--profile", str(tmp_path / "thresholds.toml"), "--json"]
        code = main(["check", *options])
        found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert all(list(verdict) == KEYS for verdict in found)
        return code, {(verdict["check"], verdict["class"]): verdict for verdict in found}

    return check


def test_what_there_is_is_judged_and_what_is_not_there_is_null(checked) -> None:
    code, found = checked()
    assert code == 2  # nothing failed, but the joined set was never made
    assert found["fid_gate", NASTY]["passed"] is True and found["fid_gate", NASTY]["worst_images"] == []
    assert found["coco_valid", None]["passed"] is None and "no sadf_coco" in found["coco_valid", None]["problems"][0]
    assert found["no_copies", "pit"]["figures"]["feature_threshold"] is None  # NaN: too few parts
    assert found["fid_gate", "pit"]["figures"]["FID threshold"] is None  # no end


@pytest.mark.parametrize(
    ("thresholds", "check", "images", "values", "by"),
    [
        ("kid = -99", "fid_gate", [5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0], "farthest"),  # 6 and 7 were rejected
        ("in_mask = 99", "defects_in_their_masks", [7, 6, 5, 4, 3, 2], [3, 4, 5, 6, 7, 8], "least change"),
        ("accepted = 0.8", "enough_accepted", [7, 6], [13, 14], "rejected"),
    ],
)
def test_a_failing_class_names_its_worst_images(
    thresholds: str, check: str, images: list[int], values: list[float], by: str, checked, stopped: Workplace
) -> None:
    others = {"kid": "kid = 99", "fid": "fid = inf", "in_mask": "in_mask = 0"}
    rest = "\n".join(line for name, line in others.items() if not thresholds.startswith(name))
    code, found = checked(f"{rest}\n[per_class.pit]\n{thresholds}")
    assert code == 1
    verdict = found[check, "pit"]
    assert verdict["passed"] is False and verdict["problems"] and by in verdict["worst_by"]
    folder = stopped.store_root / "sadf_images" / "pit" / DIGEST / "images"
    assert [one["image"] for one in verdict["worst_images"]] == [str(folder / f"{n:04d}_00.png") for n in images]
    assert [one["value"] for one in verdict["worst_images"]] == values
    assert all(Path(one["image"]).exists() for one in verdict["worst_images"])
    assert found[check, NASTY]["passed"] is True


def test_people_read_them_in_the_table(stopped: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.toml").write_text(profile_of("[per_class.pit]\nkid = -99"))
    assert main(["check", "--store", str(stopped.store_root), "--profile", str(tmp_path / "t.toml")]) == 1
    printed = "".join(capsys.readouterr().out.split())
    assert "0005_00.png" in printed and "FAILED" in printed and "notjudged" in printed


@pytest.mark.parametrize("what", ["no store", "no such class", "no such threshold"])
def test_what_cannot_be_judged_at_all_is_2_and_prints_no_json(
    what: str, stopped: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "none" if what == "no store" else stopped.store_root
    thresholds = {"no such class": "[per_class.pitt]", "no such threshold": "kdi = 1"}.get(what, "")
    (tmp_path / "t.toml").write_text(profile_of(thresholds))
    assert main(["check", "--json", "--store", str(store), "--profile", str(tmp_path / "t.toml")]) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.startswith("Error: ")


def test_a_report_that_cannot_be_read_is_not_judged(stopped: Workplace, checked) -> None:
    with stopped.store.create("fid_report", "e" * 16, "pit") as draft:
        (draft.path / "report.json").write_text("of another version")
    code, found = checked()
    assert code == 2 and "fid_report [pit] cannot be read" in found["fid_gate", "pit"]["problems"][0]


def test_a_report_that_was_edited_is_none(stopped: Workplace, checked) -> None:
    """Its KID brought below the threshold by hand, in as many characters."""
    file = stopped.store_root / "fid_report" / "pit" / DIGEST / "report.json"
    file.write_text(file.read_text().replace('"kid": ', '"kid":-'))
    code, found = checked()
    assert code == 2 and "There is no fid_report of class 'pit'" in found["fid_gate", "pit"]["problems"][0]


def test_a_check_without_an_end_has_null() -> None:
    verdict = Verdict(SADF.checks[0], None, [], {"a": math.inf, "b": 1.5, "c": 2})
    assert verdict.record()["figures"] == {"a": None, "b": 1.5, "c": 2}


def test_the_worst_are_of_what_was_judged_not_of_what_was_painted_since(stopped: Workplace, checked) -> None:
    store = Store(root=str(stopped.store_root))
    with store.create("sadf_images", "f" * 16, "pit"):
        pass  # of the next run, which stopped here
    _, found = checked("kid = -99")
    assert DIGEST in found["fid_gate", "pit"]["worst_images"][0]["image"]
