"""The whole chain on a tiny backbone and a tiny component: run, rerun, checks, gate."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import dagster as dg
import numpy as np
import pandas as pd
import pytest

from defect_pipeline import profiles
from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.coco import FILTERED, UNFILTERED
from defect_pipeline.assets.copying import Copying, read_copies
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.experiments.shares import chosen_groups
from defect_pipeline.assets.fid import Report
from defect_pipeline.assets.masks import BankEntry, drawings_digest, mask_bank, read_bank, read_placement
from defect_pipeline.assets.order import ORDERS, Judged
from defect_pipeline.assets.quality import Agreement
from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.automation.instance import open_instance
from defect_pipeline.automation.jobs import run_stale
from defect_pipeline.cli import main
from defect_pipeline.definitions import definitions_for
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.imaging.coco import coco_problems
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.conftest import network_refused
from defect_pipeline_tests.support import SIZE, copy_of, stage_named, tiny, write_component


@pytest.fixture(scope="module")
def tiny_profile(tiny_backbone: Path):
    profile = profiles.PROFILES["tiny"] = tiny("tiny", tiny_backbone)
    yield profile
    del profiles.PROFILES["tiny"]


@pytest.fixture(scope="module")
def finished(tiny_profile: profiles.Profile, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A store that holds its images, and in which one run has ended well and without a network."""
    store = tmp_path_factory.mktemp("chain") / "store"
    write_component(store / "component")
    with network_refused() as asked:
        assert main(["run", "--data", str(store / "component"), "--store", str(store), "--profile", "tiny"]) == 0
    assert asked == []
    return Workplace.at(store)


def test_the_joined_set_is_valid_and_holds_every_class(finished: Workplace):
    artifact = finished.store.current("sadf_coco")
    coco = json.loads((artifact.path / "annotations.json").read_text())
    assert coco_problems(coco, artifact.path) == []
    assert {image["defect_class"] for image in coco["images"]} == {"alpha", "beta"}
    assert len(coco["images"]) == 2 * 3 * 2  # classes x drivers x images of each driver
    first, second = (cv2.imread(str(artifact.path / image["file_name"])) for image in coco["images"][:2])
    assert not np.array_equal(first, second)  # one driver, another noise


def test_the_set_and_the_real_images_go_to_another_tool(finished: Workplace, tmp_path: Path):
    target = str(tmp_path / "set")
    assert main(["export", "--store", str(finished.store_root), "--format", "yolo", "--to", target, "--with-real"]) == 0
    names = [path.name for path in (tmp_path / "set").glob("labels/*/*.txt")]
    dataset = open_dataset(finished.store.current("inspection_images"))
    assert sum(name.startswith("synthetic_") for name in names) == 2 * 3 * 2
    assert sum(name.startswith("real_") for name in names) == len(dataset.images)


def test_all_classes_together_have_one_fid_from_the_moments_of_each(finished: Workplace):
    said = finished.store.current("sadf_coco").metadata
    reports = {k: finished.store.current("fid_report", k).load(Report) for k in ("alpha", "beta")}
    assert said["of synthetic images"] == sum(report.held_out.n_synthetic for report in reports.values())
    assert said["to real crops"] == sum(report.held_out.n_real for report in reports.values())
    assert said["FID, all classes together"] < max(report.held_out.fid for report in reports.values())


def test_every_synthetic_image_is_judged_and_its_file_is_in_the_unfiltered_set(finished: Workplace):
    joined = finished.store.current("sadf_coco").path
    filtered, unfiltered = (json.loads((joined / file).read_text()) for file in (FILTERED, UNFILTERED))
    assert coco_problems(unfiltered, joined) == []
    assert {image["file_name"] for image in unfiltered["images"]} == {
        f"images/{p.name}" for p in (joined / "images").iterdir()
    }
    kept = 0
    for k in ("alpha", "beta"):
        verdicts = read_verdicts(finished.store.current("sadf_accepted", k).path)
        assert len(verdicts) == 6 and verdicts["image"].is_unique
        kept += int((verdicts["reason"] == "").sum())
    assert len(filtered["images"]) == kept


def test_a_filter_that_nothing_passes_says_why(
    finished: Workplace,
    tiny_profile: profiles.Profile,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    store = copy_of(finished, tmp_path).store_root
    monkeypatch.setitem(profiles.PROFILES, "tiny", replace(tiny_profile, filter=profiles.Filter(visible=256)))
    assert main(["run", "--store", str(store), "--profile", "tiny"]) == 1
    assert "6 x unseen (hardly anything changed under the mask)" in " ".join(capfd.readouterr().err.split())


def test_training_images_given_back_are_found_to_be_copies(
    finished: Workplace,
    tiny_profile: profiles.Profile,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """The fault planted: synthetic images that are training images, some of them in a mirror."""
    store = copy_of(finished, tmp_path).store_root
    shutil.rmtree(store / "copy_report" / "alpha")
    training = read_training({"alpha": finished.store.current("topological_drivers", "alpha").path})
    images, masks = list(training.images[:6]), list(training.masks[:6])
    images[1], masks[1] = np.ascontiguousarray(images[1][:, ::-1]), np.ascontiguousarray(masks[1][:, ::-1])
    monkeypatch.setattr("defect_pipeline.assets.copying.read_set", lambda painted, bank: (images, masks))
    strict = replace(tiny_profile.thresholds, copies=0.05)
    monkeypatch.setitem(profiles.PROFILES, "tiny", replace(tiny_profile, thresholds=strict))
    assert main(["run", "--store", str(store), "--profile", "tiny"]) == 1
    report = Workplace.at(store).store.current("copy_report", "alpha")
    table, figures = read_copies(report.path), report.load(Copying)
    assert figures.copies >= 0.5 and table.loc[:1, "copy"].all()
    capsys.readouterr()
    assert main(["check", "--store", str(store)]) == 1
    assert "no_copies" in capsys.readouterr().out


@pytest.mark.parametrize(
    "how", [{"strategy": "shape model"}, {"placement": "learned"}, {"framing": "windows", "sizes": (0.6, 1.6)}]
)
def test_masks_of_other_strategies_lie_on_the_component(
    finished: Workplace, tiny_profile: profiles.Profile, tmp_path: Path, how: dict
):
    store, before = copy_of(finished, tmp_path), _bank(finished)
    made = _bank(_drawn(store, settings=replace(tiny_profile, masks=profiles.Masks(per_class=3, **how))))
    assert len(made) == 3 and all(entry.mask().any() for entry in made)
    assert not any(np.array_equal(a.mask(), b.mask()) for a, b in zip(before, made, strict=True))


def test_a_drawn_map_says_where_defects_go_and_a_black_one_is_refused(finished: Workplace, tmp_path: Path):
    maps = tmp_path / "maps"
    maps.mkdir()
    drawn = np.zeros((50, 50), np.uint8)
    drawn[:25] = 255
    cv2.imwrite(str(maps / "alpha.png"), drawn)
    made = _bank(_drawn(copy_of(finished, tmp_path), placement_maps=str(maps)))
    rows = [np.nonzero(mask)[0].mean() for entry in made for _, mask in entry.masks]
    assert np.mean(rows) < SIZE / 2
    with pytest.raises(PipelineError, match="elsewhere is no folder"):
        drawings_digest(replace(finished, placement_maps=str(maps / "elsewhere")).pipeline)
    cv2.imwrite(str(maps / "alpha.png"), 0 * drawn)
    with pytest.raises(PipelineError, match=r"alpha\.png is black"):
        read_placement(maps / "alpha.png", SIZE)


def _drawn(place: Workplace, **changes: Any) -> Workplace:
    """The workplace with the mask bank of class alpha made anew."""
    changed = replace(place, **changes)
    with open_instance(place.store_root) as instance:
        failures = run_stale(
            definitions_for(changed), instance, changed.store, changed.pipeline, [mask_bank], "alpha", "draw"
        )
    assert failures == []
    return changed


def _bank(place: Workplace) -> list[BankEntry]:
    return read_bank(place.store.current("mask_bank", "alpha").path)


def test_every_regime_is_reported_on_the_test_split(finished: Workplace):
    rows = finished.store.current("segmentation_report").metadata["figures"]
    assert [row["regime"] for row in rows] == ["real", "synthetic", "synthetic_then_real"]
    assert all(row["n_images"] > 0 for row in rows)


def test_nothing_that_generates_has_seen_held_out_images(finished: Workplace):
    report = finished.store.current("topological_drivers", "alpha").metadata
    images = pd.read_parquet(finished.store.current("inspection_images").path / "manifest.parquet")
    train = (images["split"] == "train") & (images["defect_class"] == "alpha")
    assert report["train images"] == train.sum() < (images["defect_class"] == "alpha").sum()


def test_a_second_run_makes_no_run(finished: Workplace):
    with open_instance(finished.store_root) as instance:
        before = instance.get_runs_count()
    assert main(["run", "--store", str(finished.store_root)]) == 0
    with open_instance(finished.store_root) as instance:
        assert instance.get_runs_count() == before
        classes = instance.get_dynamic_partitions("defect_class")
    assert sorted(classes) == ["alpha", "beta"]


def test_a_store_that_was_moved_goes_on(finished: Workplace, tmp_path: Path):
    with open_instance(finished.store_root) as instance:
        before = instance.get_runs_count()
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(finished.store_root, moved)
    try:
        assert main(["check", "--store", str(moved)]) == 0
        assert main(["report", "--store", str(moved), "--to", str(tmp_path / "page.html")]) == 0
        assert main(["run", "--store", str(moved)]) == 0
        with open_instance(moved) as instance:
            assert instance.get_runs_count() == before
        assert "What is missing" not in (tmp_path / "page.html").read_text()
        place = Workplace.at(moved)
        dataset = open_dataset(place.store.current("inspection_images"))
        assert dataset.root == place.data_root == moved / "component" and dataset.image(1).ndim == 3
        assert not finished.store_root.exists()
    finally:
        shutil.rmtree(finished.store_root, ignore_errors=True)
        shutil.move(moved, finished.store_root)


def test_manifest_and_check_read_the_store(finished: Workplace, capsys: pytest.CaptureFixture[str]):
    assert main(["manifest", "--csv", "--store", str(finished.store_root)]) == 0
    assert capsys.readouterr().out.startswith("path,class,group,split\nalpha/")
    assert main(["check", "--store", str(finished.store_root)]) == 0


def test_the_ui_says_what_an_asset_was_made_from_and_where_its_pictures_are(finished: Workplace):
    with open_instance(finished.store_root) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("sadf_coco"))
    shown = event.asset_materialization.metadata
    artifact = finished.store.current("sadf_coco")
    assert len(shown["picture: contact sheet"].value) <= 100 * 1024
    assert Path(shown["picture: contact sheet, in full"].value) == artifact.path / "pictures" / "contact sheet.png"
    assert Path(shown["picture: contact sheet, in full"].value).exists()
    assert (shown["seed"].value, shown["code_version"].value) == (0, "1")
    assert shown["data digest"].value == finished.store.current("inspection_images").contents[""]
    parents = {row.data["parent"]: row.data["digest"] for row in shown["made from"].value.records}
    assert parents["fid_report [beta]"] == finished.store.current("fid_report", "beta").digest
    assert set(parents) == {"inspection_images"} | {
        f"{name} [{k}]" for name in ("sadf_images", "sadf_accepted", "fid_report") for k in ("alpha", "beta")
    }


def test_a_run_as_one_page(finished: Workplace, tmp_path: Path):
    assert main(["report", "--store", str(finished.store_root), "--to", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "What is missing" not in page
    for said in (
        "all 15 checks passed",
        "Segmentor on the test split",
        "Where it stands out least",
        "All classes",
    ):
        assert said in page


def test_thresholds_of_a_file_close_and_open_the_gate_without_training_anew(
    finished: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    store = copy_of(finished, tmp_path).store_root
    before = {name: finished.store.current(name).digest for name in ("sadf_coco", "segmentor")}
    file = tmp_path / "limits.toml"
    file.write_text('base = "tiny"\n[thresholds.per_class.beta]\nkid = -10')
    limits = ["--profile", str(file)]
    assert main(["run", "--store", str(store), *limits]) == 1
    assert "fid_gate [beta]: KID" in capfd.readouterr().err
    file.write_text('base = "tiny"\n[thresholds]\nkid = 1e8\n[thresholds.per_class.beta]\ncopies = 0.9')
    assert main(["run", "--store", str(store), *limits]) == 0
    file.unlink()
    assert main(["run", "--store", str(store)]) == 0  # which remembers what the file said
    assert Workplace.at(store).settings.thresholds.kid == 1e8
    after = {name: Workplace.at(store).store.current(name).digest for name in before}
    assert after["sadf_coco"] != before["sadf_coco"] and after["segmentor"] == before["segmentor"]
    assert main(["run", "--store", str(store), "--set", "thresholds.per_class.gamma.kid=1"]) == 1
    assert "a class 'gamma', but the images show alpha, beta" in " ".join(capfd.readouterr().err.split())


def test_quality_judges_every_class_and_prints_its_tables(finished: Workplace, capsys: pytest.CaptureFixture[str]):
    assert main(["quality", "--store", str(finished.store_root)]) == 0
    printed = capsys.readouterr().out
    for row in ("un-adapted backbone", "concept + condition", "copy-paste", "floor", "twins", "condition only", "PSNR"):
        assert row in printed
    store = finished.store
    ladder = store.current("kid_ladder", "alpha").load(dict[str, Comparison])
    shipped = store.current("fid_report", "alpha").load(Report).unfiltered
    assert ladder["the same, as shipped"].kid == pytest.approx(shipped.kid, abs=1e-4)
    agreement = store.current("agreement_report", "beta").load(Agreement)
    assert agreement.from_noise.n == 3 and agreement.n_synthetic == 6 and agreement.n_real > 0
    rows = {row["images"]: row for row in store.current("variety_report", "alpha").load(list[dict])}
    assert list(rows) == ["all from noise", "as shipped", "inpainting"]
    assert rows["all from noise"]["l2"] > rows["inpainting"]["l2"] > 0 and rows["inpainting"]["conditions"] == 3
    strategies = store.current("shape_report", "alpha").load(list[dict])
    assert [row["strategy"] for row in strategies] == ["annotated", "perturbed", "shape model"]
    assert strategies[0]["novelty"] == 0 < min(row["novelty"] for row in strategies[1:])
    judged = store.current("order_report").load(list[Judged])
    assert [(part.order, part.defect_class) for part in judged] == list(product(ORDERS, ("alpha", "beta")))
    assert judged[0].kid != judged[2].kid  # two generators
    pictures = finished.store_root.parent / "pictures"
    assert main(["quality", "--store", str(finished.store_root), "--pictures", str(pictures)]) == 0  # from the store
    assert capsys.readouterr().out.startswith(printed)
    assert {"autoencoder_crops.jpg", "sadf_images_contact_sheet_alpha.jpg", "order_images.jpg"} <= set(
        path.name for path in pictures.iterdir()
    )


def test_a_tenth_of_the_groups_is_of_the_train_side_and_holds_every_class(finished: Workplace):
    dataset = open_dataset(finished.store.current("inspection_images"))
    sides = dataset.images.groupby("group")["split"].first()
    drawn = [chosen_groups(dataset, 0.1, seed) for seed in range(8)]
    for groups in drawn:
        assert set(sides[list(groups)]) == {"train"}
        shown = dataset.images.loc[dataset.images["group"].isin(groups), "defect_class"]
        assert {"alpha", "beta"} <= set(shown)
    assert drawn[0] == chosen_groups(dataset, 0.1, 0) and len({frozenset(groups) for groups in drawn}) > 1


def test_a_tightened_gate_fails_the_check_and_closes_the_fan_in(
    finished: Workplace,
    tiny_profile: profiles.Profile,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    strict = replace(tiny_profile.thresholds, per_class={"beta": {"kid": -10.0}})
    monkeypatch.setitem(profiles.PROFILES, "tiny", replace(tiny_profile, thresholds=strict))
    assert main(["check", "--store", str(finished.store_root), "--profile", "tiny"]) == 1
    with open_instance(finished.store_root) as instance:
        before = instance.get_runs_count()
        assert main(["run", "--store", str(finished.store_root), "--profile", "tiny"]) == 1
        assert "fid_gate [beta]: KID" in " ".join(capfd.readouterr().err.split())
        assert instance.get_runs_count() == before  # no fan-in; and where one is started by hand, it refuses itself:
        closed, joined = Workplace.at(finished.store_root), stage_named("sadf_coco")
        assert joined.stale(closed.store, closed.pipeline, None)
        failures = run_stale(definitions_for(closed), instance, closed.store, closed.pipeline, [joined], None, "join")
    assert "beta: KID" in failures[0]
