"""Images that join, go or are annotated anew touch what reads them; what is left alone would have come out the same."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from defect_pipeline import profiles
from defect_pipeline.assets import drivers
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import lora_weights
from defect_pipeline.assets.stage import Build, Stage, open_dataset
from defect_pipeline.automation.instance import open_instance
from defect_pipeline.automation.jobs import run_everything
from defect_pipeline.automation.regeneration import due, run_states
from defect_pipeline.cli import main
from defect_pipeline.definitions import definitions_for
from defect_pipeline.imaging.crops import Crop
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.store import Store
from defect_pipeline.systems import SYSTEMS, system_named
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import build_of, stage_named, tiny, write_class, write_component

NAMES = tuple(system.name for system in SYSTEMS)
Made = dict[tuple[str, str], str]  # digests by asset and partition


@pytest.fixture(scope="module", autouse=True)
def profile(tiny_backbone: Path) -> Iterator[profiles.Profile]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of other threads may differ in the last bit
    profiles.PROFILES["grown"] = replace(
        tiny("grown", tiny_backbone),
        stablesdg=replace(
            profiles.EMBEDDED.stablesdg, tune=False, token_steps=2, steps=2, batch=2, images=4, solver_steps=2
        ),
        recognition=profiles.Recognition(models=("squeezenet",), steps=2, batch=4),
    )
    yield profiles.PROFILES["grown"]
    torch.set_num_threads(threads)
    del profiles.PROFILES["grown"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each system a folder with data and the store of a run."""
    folders = {}
    for system in NAMES:
        folders[system] = base = tmp_path_factory.mktemp(system)
        write_component(base / "data")
        command = ["run", "--data", str(base / "data"), "--store", str(base / "store"), "--profile", "grown"]
        assert main([*command, "--system", system]) == 0
    return folders


@pytest.fixture
def site(request: pytest.FixtureRequest, first: dict[str, Path], tmp_path: Path) -> Workplace:
    """A copy of a system's folder, to be changed."""
    shutil.copytree(first[request.param], tmp_path / "site")
    place = replace(Workplace.at(tmp_path / "site" / "store"), data=str(tmp_path / "site" / "data"))
    place.open()
    return place


def run(place: Workplace) -> Made:
    """What the store holds after a run."""
    assert main(["run", "--store", str(place.store_root), "--profile", "grown"]) == 0
    return made(place)


def made(place: Workplace) -> Made:
    assets = [one.name for one in system_named(place.system).stages]
    found = {}
    for asset in assets:
        for k in place.store.partitions(asset):
            found[asset, k] = place.store.current(asset, None if k == "all" else k).digest
    return found


def changed(before: Made, after: Made) -> set[tuple[str, str]]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def files(place: Workplace, asset: str, k: str) -> dict[str, str]:
    """SHA-256 of what an artifact holds."""
    artifact = place.store.current(asset, None if k == "all" else k)
    listed = json.loads((artifact.path / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in listed.items()}


def assert_same_from_scratch(place: Workplace, left: set[tuple[str, str]], tmp_path: Path) -> None:
    """Made anew from the same table of images, whatever was left alone comes out the same, byte for byte."""
    fresh = begun_anew(place, tmp_path)
    with open_instance(fresh.store_root) as instance:
        instance.add_dynamic_partitions("defect_class", list(classes(place)))
    assert run(fresh).keys() >= left
    for asset, k in left - {("inspection_images", "all")}:
        assert files(fresh, asset, k) == files(place, asset, k), (asset, k)


def begun_anew(place: Workplace, tmp_path: Path) -> Workplace:
    """The same with a store that holds the table of images alone."""
    fresh = replace(place, store_root=tmp_path / "fresh")
    shutil.copytree(place.store_root / "inspection_images", fresh.store_root / "inspection_images")
    fresh.open()
    return fresh


def classes(place: Workplace) -> tuple[str, ...]:
    return open_dataset(place.store.current("inspection_images")).categories


def is_stale(place: Workplace, name: str, k: str | None = None) -> bool:
    return stage_named(name).stale(place.store, place.pipeline, k)


def correct(place: Workplace, k: str, split: str) -> None:
    """Draw the mask of an image of a class and a side a little wider."""
    images = open_dataset(place.store.current("inspection_images")).images
    path = images.query("defect_class == @k and split == @split")["path"].iloc[0]
    mask = (place.data_root / path).with_suffix(".png")
    cv2.imwrite(str(mask), cv2.dilate(cv2.imread(str(mask), 0), None, iterations=2))


@pytest.mark.parametrize(
    ("site", "touched"),
    [
        (
            "sadf",
            {
                ("inspection_images", "all"), ("fid_report", "beta"), ("class_report", "all"), ("sadf_coco", "all"),
                ("segmentation_report", "all"),
            },
        ),
        ("stablesdg", {("inspection_images", "all"), ("stablesdg_fid_report", "beta"), ("recognition_report", "all")}),
    ],
    indirect=["site"],
)  # fmt: skip
def test_a_corrected_test_image_is_measured_anew_and_nothing_learns(
    site: Workplace, touched: set[tuple[str, str]], tmp_path: Path
) -> None:
    before = made(site)
    correct(site, "beta", "test")
    after = run(site)
    assert changed(before, after) == touched
    assert_same_from_scratch(site, after.keys() - touched, tmp_path)


@pytest.mark.parametrize("site", ["stablesdg"], indirect=True)
def test_classes_of_the_second_system_do_not_touch_each_other(site: Workplace, tmp_path: Path) -> None:
    before = made(site)
    write_class(site.data_root / "aleph", 7)  # in front of the others
    correct(site, "beta", "train")
    after = run(site)
    alone = {key for key in before if key[1] == "alpha"}
    assert not changed(before, after) & alone and len(alone) == len(system_named("stablesdg").plan[1].stages)
    assert {("token_embedding", "beta"), ("token_embedding", "aleph"), ("recognizer", "all")} <= changed(before, after)
    assert_same_from_scratch(site, alone, tmp_path)

    shutil.rmtree(site.data_root / "aleph")
    last = run(site)
    assert changed(after, last) == {(name, "all") for name in ("inspection_images", "recognizer", "recognition_report")}
    assert classes(site) == ("alpha", "beta")


@pytest.mark.parametrize(
    ("site", "generator"), [("sadf", "hypernetwork_weights"), ("union", "union_weights")], indirect=["site"]
)
def test_where_defects_go_is_nothing_that_a_generator_learns(
    site: Workplace, generator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, profile = made(site), profiles.PROFILES["grown"]
    learned = replace(profile.masks, placement="learned")
    monkeypatch.setitem(profiles.PROFILES, "grown", replace(profile, masks=learned))
    after = run(site)
    weights = {key for key in before if key[0].endswith("weights")}
    drawn = {
        (asset, k) for asset, k in before if asset in ("mask_bank", "sadf_images", "union_canvases", "union_images")
    }
    assert drawn <= changed(before, after) and not weights & changed(before, after)
    assert generator in {asset for asset, _ in weights}
    assert_same_from_scratch(site, weights, tmp_path)


@pytest.mark.parametrize("site", ["sadf"], indirect=True)
def test_a_class_that_joins_behind_redraws_no_other(site: Workplace) -> None:
    write_class(site.data_root / "gamma", 7)
    assert main(["manifest", "--store", str(site.store_root)]) == 0
    for asset in ("mask_bank", "topological_drivers"):
        assert not is_stale(site, asset, "alpha") and is_stale(site, asset, "gamma")
    assert is_stale(site, "concept_weights")
    assert not is_stale(site, "defect_free_pool")


@pytest.mark.parametrize("site", ["sadf"], indirect=True)
def test_training_crops_of_images_that_stay_are_taken_over(
    site: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct(site, "alpha", "train")
    cropped: list[str] = []
    crops = drivers.training_crops

    def seen(dataset: Dataset, image_ids: Sequence[int], *options: Any) -> Iterator[Crop]:
        cropped.extend(dataset.images.loc[list(image_ids), "path"])
        return crops(dataset, image_ids, *options)

    monkeypatch.setattr(drivers, "training_crops", seen)
    draw(site)
    assert len(cropped) == 1 and cropped[0].startswith("alpha/")
    fresh = begun_anew(site, tmp_path)
    draw(fresh)
    assert len(cropped) > 3
    for k in classes(site):
        assert files(fresh, "topological_drivers", k) == files(site, "topological_drivers", k)


def draw(place: Workplace) -> None:
    """A run as far as the drivers."""
    with open_instance(place.store_root) as instance:
        assert not run_everything(definitions_for(place), instance, place.store, place.pipeline, SADF, SADF.plan[:2])


@pytest.mark.parametrize("site", ["stablesdg"], indirect=True)
def test_what_was_undone_is_asked_for_again(site: Workplace) -> None:
    """A run key that named the result alone would be one that Dagster knows, and skips."""
    folder, keys = site.data_root / "beta", []
    with open_instance(site.store_root) as instance:
        for there in (True, False, True):
            for file in ("00.jpg", "00.png"):
                if there:
                    shutil.copy2(folder / file, folder / f"again{file}")  # with its time, as if it had never been away
                else:
                    (folder / f"again{file}").unlink()
            (first_look,), (second_look,) = (due(run_states(instance, site.store, site.pipeline)) for _ in range(2))
            assert first_look == second_look  # as long as nothing was made: a run that fails is not repeated
            keys.append(first_look.wanted)
            assert main(["manifest", "--store", str(site.store_root)]) == 0
    assert len(set(keys)) == 3


@pytest.mark.parametrize("site", ["stablesdg"], indirect=True)
def test_a_gate_that_was_found_closed_holds_the_next_run_back(
    site: Workplace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    profile = profiles.PROFILES["grown"]
    strict = replace(profile.thresholds, per_class={"beta": {"kid": -10.0}})
    monkeypatch.setitem(profiles.PROFILES, "grown", replace(profile, thresholds=strict))
    shutil.rmtree(site.store_root / "recognizer")
    for _ in range(2):
        assert main(["run", "--store", str(site.store_root), "--profile", "grown"]) == 1
        assert "generated_gate [beta]: KID" in " ".join(capfd.readouterr().err.split())
        assert not site.store.partitions("recognizer")
        with open_instance(site.store_root) as instance:
            now = Workplace.at(site.store_root)
            assert due(run_states(instance, now.store, now.pipeline)) == []
    monkeypatch.setitem(profiles.PROFILES, "grown", profile)
    assert main(["run", "--store", str(site.store_root), "--profile", "grown"]) == 0
    assert site.store.partitions("recognizer") == ["all"]


@pytest.mark.parametrize("site", ["stablesdg"], indirect=True)
def test_a_build_is_given_what_its_stage_declares(site: Workplace, tmp_path: Path) -> None:
    own = build_of(site, "token_embedding", "beta", tmp_path)
    images = own.dataset.images
    assert set(images["split"]) == {"train"} and set(images["defect_class"]) == {"beta"}
    assert own.dataset.categories == ("beta",)
    for forbidden in (lambda: own.read(inspection_images), lambda: own.classes, lambda: own.colours):
        with pytest.raises(KeyError, match="token_embedding"):
            forbidden()
    with pytest.raises(KeyError, match="does not list"):
        own.read(lora_weights)
    assert build_of(site, "recognizer", None, tmp_path).classes == ("alpha", "beta")


@pytest.mark.parametrize("site", ["stablesdg"], indirect=True)
def test_a_damaged_history_is_moved_away_and_nothing_that_was_made_is_lost(
    site: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    before, history = run(site), site.store_root / "dagster"
    for database in history.rglob("*.db"):
        database.write_bytes(b"no database" * 99)
    assert main(["run", "--store", str(site.store_root)]) == 1
    assert f"The history in {history} is damaged" in capfd.readouterr().err
    history.rename(site.store_root.parent / "away")
    shutil.rmtree(site.store_root / "stablesdg_images" / "beta")
    assert run(site) == before
    with open_instance(site.store_root) as instance:
        assert instance.get_dynamic_partitions("defect_class") == ["alpha", "beta"]


def test_a_build_reads_what_its_digest_saw(tmp_path: Path) -> None:
    """Another run may replace a parent while a build is under way."""
    store, seen = Store(root=str(tmp_path)), []

    def write(digest: str) -> None:
        with store.create("parent", digest) as draft:
            (draft.path / "file").write_text(digest)

    def child(build: Build) -> None:
        write("new")
        seen.append((build.read(parent).path / "file").read_text())

    pipeline = Pipeline(data=str(tmp_path), settings=profiles.EMBEDDED)
    parent = Stage("parent", child)
    made = Stage("child", child, (parent,))
    write("old")
    artifact, _ = made.materialize(store, pipeline)
    assert seen == ["old"] and artifact.parents == {"parent": "old"}
    assert made.digest(store, pipeline, None) != artifact.digest  # so that it is stale
