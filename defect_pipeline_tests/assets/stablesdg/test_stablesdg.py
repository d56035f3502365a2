"""The second system's chain on a tiny backbone and a tiny component."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from defect_pipeline import profiles
from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.stablesdg import tune
from defect_pipeline.assets.stablesdg.adapt import load_adapted
from defect_pipeline.assets.stablesdg.generate import Generated, read_generated
from defect_pipeline.assets.stablesdg.recognise import ARMS, Recognised
from defect_pipeline.assets.stablesdg.reports import GeneratedReport
from defect_pipeline.assets.stablesdg.tune import Choice, Tuned
from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.automation.instance import open_instance
from defect_pipeline.cli import main
from defect_pipeline.diffusion.backbone import LINEAR, load_backbone, load_pipeline
from defect_pipeline.diffusion.token import TOKEN
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.copying import Thresholds
from defect_pipeline.generator.loading import EMBEDDING
from defect_pipeline.imaging.crops import class_windows, groups_of, windows
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import SIZE, build_of, copy_of, stage_named, tiny, write_component

CLASSES = ("alpha", "beta")
SETTINGS = replace(
    profiles.EMBEDDED.stablesdg,
    tune=False,
    token_steps=2,
    steps=2,
    batch=2,
    images=7,
    solver_steps=2,
    guidance=2.0,
    per_class={"alpha": (0.01, 1.0), "beta": (1.0, 3.0)},
)


@pytest.fixture(scope="module")
def finished(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory):
    profiles.PROFILES["tiny-b"] = replace(
        tiny("tiny-b", tiny_backbone),
        stablesdg=SETTINGS, recognition=profiles.Recognition(models=("squeezenet",), steps=2, batch=4),
    )  # fmt: skip
    base = tmp_path_factory.mktemp("stablesdg")
    write_component(base / "data")
    arguments = ["--data", str(base / "data"), "--store", str(base / "store"), "--profile", "tiny-b"]
    assert main(["run", *arguments, "--system", "stablesdg"]) == 0
    yield Workplace.at(base / "store")
    del profiles.PROFILES["tiny-b"]


def test_images_come_from_train_images_alone(finished: Workplace):
    images = open_dataset(finished.store.current("inspection_images")).images
    for k in CLASSES:
        made = finished.store.current("stablesdg_images", k)
        rows = made.load(Generated).images
        assert len(rows) == SETTINGS.images and len(read_generated(made)) == SETTINGS.images
        sources = images.set_index("path").loc[sorted({row.source for row in rows})]
        assert (sources["split"] == "train").all() and (sources["defect_class"] == k).all()
        assert (made.metadata["strength"], made.metadata["guidance"]) == SETTINGS.of(k)


def test_train_images_given_back_are_found_to_be_copies(
    finished: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The fault planted: generated images that are train images, one of them in a mirror."""
    store = copy_of(finished, tmp_path).store_root
    shutil.rmtree(store / "stablesdg_copy_report" / "alpha")
    dataset = open_dataset(finished.store.current("inspection_images"))
    train = [i for i in dataset.of_class("alpha") if dataset.images.at[i, "split"] == "train"]
    given = [windows(dataset, i, SIZE)[0].image for i in train]
    given[0] = np.ascontiguousarray(given[0][:, ::-1])
    given = (given * SETTINGS.images)[: SETTINGS.images]
    monkeypatch.setattr("defect_pipeline.assets.stablesdg.reports.read_generated", lambda artifact: given)
    strict = replace(profiles.PROFILES["tiny-b"], thresholds=profiles.Thresholds(kid=1e9, fid=1e9, copies=0.05))
    monkeypatch.setitem(profiles.PROFILES, "tiny-b", strict)
    assert main(["run", "--store", str(store), "--profile", "tiny-b"]) == 1
    assert Workplace.at(store).store.current("stablesdg_copy_report", "alpha").load(Copying).copies == 1
    capsys.readouterr()
    assert main(["check", "--store", str(store)]) == 1
    assert "generated_no_copies" in capsys.readouterr().out


def test_copies_are_compared_beside_the_generated(finished: Workplace):
    reports = {k: finished.store.current("stablesdg_fid_report", k).load(GeneratedReport) for k in CLASSES}
    for report in reports.values():
        assert report.held_out.n_synthetic == SETTINGS.images
        assert report.copies.n_synthetic == report.train.n_real  # the train images themselves
        assert report.copies.n_real == report.held_out.n_real


def test_token_and_adapters_load_in_plain_diffusers(finished: Workplace, tiny_backbone: Path):
    pipeline = load_pipeline(tiny_backbone)
    pipeline.load_textual_inversion(finished.store.current("token_embedding", "alpha").path / EMBEDDING, token=TOKEN)
    pipeline.load_lora_weights(finished.store.current("lora_weights", "alpha").path)
    image = pipeline(SETTINGS.prompt, num_inference_steps=2, height=SIZE, width=SIZE, output_type="np").images[0]
    assert image.shape == (SIZE, SIZE, 3) and np.isfinite(image).all()


def test_every_classifier_is_measured_with_and_without_synthetic_images(finished: Workplace):
    rows = finished.store.current("recognition_report").load(list[Recognised])
    assert [(row.model, row.arm) for row in rows] == [("squeezenet", arm) for arm in ARMS]
    images = open_dataset(finished.store.current("inspection_images")).images
    test = (images["split"] == "test") & (images["defect_class"] != "")
    assert all(row.n == test.sum() and 0 <= row.accuracy <= 1 and set(row.recall) == set(CLASSES) for row in rows)
    assert finished.store.current("recognizer").metadata["synthetic images"] == len(CLASSES) * SETTINGS.images


def test_a_run_as_one_page(finished: Workplace, tmp_path: Path):
    assert main(["report", "--store", str(finished.store_root), "--to", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "What is missing" not in page
    for said in ("StableSDG", "Accuracy of classifiers", "Beside their sources", "Nearest to train images"):
        assert said in page


def test_the_store_knows_its_system(finished: Workplace, capsys: pytest.CaptureFixture[str]):
    with open_instance(finished.store_root) as instance:
        before = instance.get_runs_count()
    assert main(["run", "--store", str(finished.store_root)]) == 0  # nothing is stale
    with open_instance(finished.store_root) as instance:
        assert instance.get_runs_count() == before
    assert "Accuracy of classifiers" in capsys.readouterr().out
    assert main(["check", "--store", str(finished.store_root)]) == 0
    printed = capsys.readouterr().out
    assert "generated_gate" in printed and "coco_valid" not in printed


def test_other_strength_paints_anew_without_learning_anew(finished: Workplace, monkeypatch: pytest.MonkeyPatch):
    profile = profiles.PROFILES["tiny-b"]
    changed = replace(SETTINGS, per_class={"alpha": (0.5, 1.0), "beta": (1.0, 3.0)})
    monkeypatch.setitem(profiles.PROFILES, "tiny-b", replace(profile, stablesdg=changed))
    before = {name: finished.store.current(name, "alpha").digest for name in ("lora_weights", "stablesdg_images")}
    assert main(["run", "--store", str(finished.store_root), "--profile", "tiny-b"]) == 0
    after = {name: finished.store.current(name, "alpha").digest for name in before}
    assert before["lora_weights"] == after["lora_weights"] and before["stablesdg_images"] != after["stablesdg_images"]


def test_tuning_halves_the_candidates_and_shuns_copies(finished: Workplace, monkeypatch: pytest.MonkeyPatch):
    """The fault planted: s = 0.1 hands the sources back, which would be the nearest of all."""
    paint = tune.image_oriented

    def planted(build, backbone, sources, names, strength, guidance):
        return np.stack(sources) if strength == 0.1 else paint(build, backbone, sources, names, strength, guidance)

    monkeypatch.setattr(tune, "image_oriented", planted)
    tuning = profiles.Tuning(strengths=(0.1, 0.8, 1.0), guidances=(1.0, 2.0), images=3)
    tuned = replace(
        profiles.PROFILES["tiny-b"],
        stablesdg=replace(SETTINGS, tune=True, tuning=tuning), thresholds=profiles.Thresholds(kid=1e9, fid=1e9, copies=0.5),
    )  # fmt: skip
    # the component's parts are all alike, so that one of another part is as near as a copy: tell them apart by hand
    limits = Thresholds(feature=1e-3, hash=0)
    monkeypatch.setattr("defect_pipeline.evaluation.copying.calibrate", lambda references, groups: (limits, None))
    place = replace(finished, settings=tuned)
    made, _ = stage_named("strength_and_guidance").materialize(place.store, place.pipeline, "alpha")
    tried = made.load(Tuned).tried
    assert [(one.round, one.n) for one in tried] == [(0, 3)] * 6 + [(1, 6)] * 3 + [(2, 12)] * 2
    assert {one.copies for one in tried if one.strength == 0.1} == {1.0}
    first = tried[:6]
    assert {one.strength for one in first[:2]} == {0.1}  # last in rank, whatever their KID
    assert first[0].kid == first[0].kid_of_copies
    assert [one.kid for one in first[2:]] == sorted((one.kid for one in first[2:]), reverse=True)
    assert made.load(Tuned).chosen == Choice(tried[-1].strength, tried[-1].guidance)
    assert {picture.stem for picture in (made.path / "pictures").iterdir()} == {"strength and guidance", "candidates"}
    images, _ = stage_named("stablesdg_images").materialize(place.store, place.pipeline, "alpha")
    assert images.metadata["strength"] == tried[-1].strength


@pytest.mark.parametrize("tuning", ({"strengths": (0.5,), "guidances": (1.0,)}, {"images": 1}))
def test_tuning_needs_something_to_choose_from(tuning: dict):
    with pytest.raises(PipelineError, match="two candidates"):
        profiles.Tuning(**tuning)


def test_sources_and_judges_of_the_tuning_share_no_part_and_are_of_the_train_side(finished: Workplace):
    dataset = open_dataset(finished.store.current("inspection_images"))
    crops = class_windows(dataset, "alpha", ("train",), profiles.PROFILES["tiny-b"].drivers.size)
    sources, judges = (
        dataset.images.loc[[crop.image_id for crop in side]]
        for side in tune._halves(crops, groups_of(dataset, crops), finished.pipeline.seed)
    )
    assert set(sources["split"]) | set(judges["split"]) == {"train"}
    assert not set(sources["group"]) & set(judges["group"]) and len(sources) and len(judges)


def test_the_embedded_backbones_linear_part_is_fitted_to_the_class(finished: Workplace, tmp_path: Path):
    embedded = replace(profiles.PROFILES["tiny-b"], backbone=str(profiles.EMBEDDED_BACKBONE))
    place = replace(copy_of(finished, tmp_path), settings=embedded)
    for name in ("token_embedding", "lora_weights"):
        stage_named(name).materialize(place.store, place.pipeline, "alpha")
    build = build_of(place, "stablesdg_images", "alpha", tmp_path)
    adapted, untouched = load_adapted(build).unet.linear, load_backbone(profiles.EMBEDDED_BACKBONE).unet.linear
    kept = load_file(place.store.current("lora_weights", "alpha").path / LINEAR)
    assert torch.equal(adapted.moments, kept["moments"]) and not torch.allclose(untouched.moments, kept["moments"])
    assert not (finished.store.current("lora_weights", "alpha").path / LINEAR).exists()  # the tiny one has none
