"""The page that `defect-pipeline report` writes: whole in itself, safe, and honest about what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from defect_pipeline.cli import main
from defect_pipeline.summary import report
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.summary.conftest import NASTY, REJECTED
from defect_pipeline_tests.support import grown


class Page(HTMLParser):
    """Its tags with their attributes, its pictures, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(file.read_text())
        self.close()
        self.pictures = [attributes for tag, attributes in self.tags if tag == "img"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def written(place: Workplace, *more: str) -> Page:
    assert main(["report", "--store", str(place.store_root), *more]) == 0
    return Page(place.store_root / "report.html")


def test_it_fetches_and_runs_nothing(stopped: Workplace) -> None:
    page = written(stopped)
    addresses = [v or "" for _, found in page.tags for name, v in found.items() if name in ("src", "href", "srcset")]
    assert len(page.pictures) >= 2 * 3 * 2  # classes x rows x images at least
    assert all(address.startswith(("data:image/webp;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import", (stopped.store_root / "report.html").read_text())
    (policy,) = (found["content"] for tag, found in page.tags if "http-equiv" in found)
    assert policy and policy.startswith("default-src 'none';") and "script" not in policy
    names = {found.get("href") for tag, found in page.tags if tag == "a"}
    assert names == {f"#{found['id']}" for _, found in page.tags if "id" in found}


def test_what_a_user_named_is_shown_and_not_run(stopped: Workplace) -> None:
    page = written(stopped)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "again"})
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    for text in (NASTY, *REJECTED.values()):
        assert text in page.text


def test_figures_checks_and_provenance_are_on_it(stopped: Workplace) -> None:
    text = written(stopped).text
    for said in ("6 of 8", "a net", "Copies", "fid_gate", "c0ffee", "embedded", "torch 2"):
        assert said in text


def test_what_the_run_did_not_make_is_named(stopped: Workplace) -> None:
    text = written(stopped).text
    assert re.search(r"has not made these yet: [^.]*sadf_coco, segmentor, segmentation_report\.", text)
    assert "fid_report" not in text.split("goes on where it stopped")[0].split("has not made")[1]
    shutil.rmtree(stopped.store_root / "fid_report" / "pit")  # of one class: the other is still shown
    page = written(stopped)
    assert "fid_report [pit]" in page.text and "How near to real images" in page.text


def test_images_that_have_gone_since_are_named(stopped: Workplace) -> None:
    before = len(written(stopped).pictures)
    for file in Path(stopped.data).iterdir():
        file.unlink()
    page = written(stopped)
    assert "0.png" in page.text.split("Pictures")[0] and len(page.pictures) == before - 4  # the real ones


def test_an_empty_store_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--store", str(tmp_path / "none"), "--to", str(tmp_path / "report.html")]) == 1
    assert "There is no inspection_images in" in capfd.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_it_goes_where_it_is_sent_and_an_impossible_place_is_named(
    stopped: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", "--store", str(stopped.store_root), "--to"]
    assert main([*arguments, str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    (tmp_path / "file").touch()
    assert main([*arguments, str(tmp_path / "file" / "page.html")]) == 1
    assert "name another file with --to" in capfd.readouterr().err


def test_many_pictures_are_made_smaller_until_the_page_is_small_enough(
    stopped: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(stopped)
    full = (stopped.store_root / "report.html").stat().st_size
    monkeypatch.setattr(report, "SIDES", (1600, 100))
    monkeypatch.setattr(report, "LIMIT", full - 1)
    written(stopped)
    assert (stopped.store_root / "report.html").stat().st_size < full - 1


def test_real_images_of_one_part_stand_behind_those_of_others(stopped: Workplace) -> None:
    page = report._Page(stopped.store, stopped.pipeline, SADF, [], 1600)
    page.dataset.images["group"] = np.where(page.dataset.images["path"].isin(["0.png", "2.png"]), "one", "other")
    page.dataset.images["split"] = "train"
    shown = [picture.title for picture in page._real(NASTY).pictures]
    assert shown == ["0.png", "4.png", "2.png", "6.png"]


def test_check_and_report_know_a_stage_that_joined_the_system(
    stopped: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    added = grown(monkeypatch).stages[-1]
    added.materialize(stopped.store, stopped.pipeline)
    main(["check", "--store", str(stopped.store_root), "--json"])
    found = {verdict["check"]: verdict for verdict in json.loads(capsys.readouterr().out)}
    assert found["not_too_bright"]["passed"] and 60 < found["not_too_bright"]["figures"]["brightest"] < 200
    assert main(["report", "--store", str(stopped.store_root), "--to", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "How bright the images are" in page and "not_too_bright" in page and "brightness_report" in page
