"""The union's chain on a tiny backbone and a tiny component: images of the second system with the first one's masks."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from defect_pipeline import profiles
from defect_pipeline.assets.coco import UNFILTERED, read_coco
from defect_pipeline.assets.experiments import union as comparison
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.stablesdg.adapt import load_adapted
from defect_pipeline.assets.stage import Build, in_order, open_dataset
from defect_pipeline.assets.synthesis import driver_of, painted_files, read_canvases
from defect_pipeline.assets.union import learn
from defect_pipeline.assets.union.canvases import Canvassed
from defect_pipeline.automation.instance import open_instance
from defect_pipeline.cli import main
from defect_pipeline.diffusion import sampling, training
from defect_pipeline.diffusion.backbone import load_backbone
from defect_pipeline.generator.canvases import image_seed, strengths
from defect_pipeline.generator.painting import sample_on_sources
from defect_pipeline.imaging.coco import coco_problems
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import decode
from defect_pipeline.systems import union
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import build_of, copy_of, stage_named, tiny, write_component

CLASSES = ("alpha", "beta")
STEPS = 12  # of the hypernetwork: a checkpoint and a rest


@pytest.fixture(scope="module")
def profile(tiny_backbone: Path) -> Iterator[profiles.Profile]:
    own = replace(
        tiny("tiny-union", tiny_backbone),
        hypernetwork=replace(profiles.EMBEDDED.hypernetwork, init="zero", steps=STEPS, batch=2, window=32),
        stablesdg=replace(
            profiles.EMBEDDED.stablesdg,
            tune=False,
            token_steps=2,
            steps=2,
            batch=2,
            images=3,
            solver_steps=2,
            per_class={},
            strength=0.5,
            guidance=1.0,
        ),
        recognition=profiles.Recognition(models=("squeezenet",), steps=2, batch=4),
    )
    profiles.PROFILES["tiny-union"] = own
    yield own
    del profiles.PROFILES["tiny-union"]


@pytest.fixture(scope="module")
def finished(profile: profiles.Profile, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A store in which one run has ended well."""
    base = tmp_path_factory.mktemp("union")
    write_component(base / "data")
    arguments = ["--data", str(base / "data"), "--store", str(base / "store"), "--profile", "tiny-union"]
    assert main(["run", *arguments, "--system", "union"]) == 0
    return Workplace.at(base / "store")


@pytest.fixture(scope="module")
def without_defect_free(
    profile: profiles.Profile, finished: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Workplace:
    """A store with images of class alpha, of a component of which nobody has defect-free pictures."""
    base = tmp_path_factory.mktemp("defects-only")
    shutil.copytree(finished.data_root, base / "data", ignore=shutil.ignore_patterns("clean"))
    place = Workplace.at(base / "store", data=str(base / "data"), profile="tiny-union", system="union")
    place.open()
    assert main(["manifest", "--store", str(place.store_root)]) == 0
    for one in in_order([union.images, union.faithfulness], whole=True)[1:]:
        one.materialize(place.store, place.pipeline, "alpha")
    return place


def test_the_joined_set_is_valid_and_its_masks_are_those_asked_for(finished: Workplace):
    joined = finished.store.current("union_coco").path
    assert coco_problems(json.loads((joined / "annotations.json").read_text()), joined) == []
    images, _ = read_coco(joined, CLASSES, UNFILTERED)  # whatever the filter says
    assert len(images) == 2 * 3 * 2  # classes x drivers x images of each driver
    for k in CLASSES:
        bank = read_bank(finished.store.current("union_canvases", k).path)
        made = finished.store.current("union_images", k).path
        coco = json.loads((made / "annotations.json").read_text())
        found = {image["id"]: np.zeros((image["height"], image["width"]), bool) for image in coco["images"]}
        for entry in coco["annotations"]:
            found[entry["image_id"]] |= decode(entry["segmentation"]["counts"], *entry["segmentation"]["size"])
        assert [driver_of(name) for name in painted_files(made)] == [0, 0, 1, 1, 2, 2]
        assert all(np.array_equal(found[i["id"]], bank[i["driver"]].mask()) for i in coco["images"])


def test_both_systems_paint_the_same_masks_on_the_same_pictures(finished: Workplace):
    """What is compared is the generators."""
    pool = finished.store.current("defect_free_pool").path
    for k in CLASSES:
        own, first = finished.store.current("union_canvases", k), finished.store.current("mask_bank", k)
        assert not own.load(Canvassed).own
        for mine, theirs in zip(read_bank(own.path), read_bank(first.path), strict=True):
            assert np.array_equal(mine.mask(), theirs.mask())
            assert np.array_equal(read_image(own.path / mine.background), read_image(pool / theirs.background))


def test_every_check_of_the_first_system_holds_for_the_union(finished: Workplace, capsys: pytest.CaptureFixture[str]):
    assert main(["check", "--store", str(finished.store_root)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("driver_contract", "defects_in_their_masks", "no_copies", "coco_valid"))
    assert main(["run", "--store", str(finished.store_root)]) == 0  # of the store's own system, and nothing is stale
    assert "segm mAP" in capsys.readouterr().out
    with open_instance(finished.store_root) as instance:
        assert {run.job_name for run in instance.get_runs()} == {"register", "unite", "join_union"}


def test_the_adapted_backbone_stays_as_it_is_while_the_hypernetwork_learns(
    finished: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = []

    def kept(build: Build):
        backbone = load_adapted(build)
        loaded.append((backbone, {n: v.clone() for n, v in _weights(backbone).items()}))
        return backbone

    monkeypatch.setattr(learn, "load_adapted", kept)
    place = copy_of(finished, tmp_path, without="union_weights")
    made, _ = stage_named("union_weights").materialize(place.store, place.pipeline, "alpha")
    (backbone, before), settings = loaded[0], place.settings
    assert all(torch.equal(value, before[name]) for name, value in _weights(backbone).items())
    assert not any("lora" in name for name in before)  # adapters are part of the weights, and the copy is of these
    untouched = load_backbone(Path(place.pipeline.settings.backbone)).unet.state_dict()
    begun = backbone.new_hypernetwork(settings.hypernetwork.init, place.seed).state_dict()
    adapted = [n for n, v in untouched.items() if not torch.equal(v, before[f"unet.{n}"])]
    shared = [n for n in adapted if n in begun]
    assert shared and all(".attn" in n for n in adapted)
    assert all(torch.equal(begun[n], before[f"unet.{n}"]) for n in shared)
    learned = load_file(made.path / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert learned["controlnet_mid_block.weight"].any()  # zero, until it learns


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(
    finished: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[int] = []
    loop = training.training_loop

    def watched(*arguments, **named):
        for state in loop(*arguments, **named):
            steps.append(state.step)
            yield state
            if len(steps) == 11:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "training_loop", watched)
    place = copy_of(finished, tmp_path, without="union_weights")
    with pytest.raises(KeyboardInterrupt):
        stage_named("union_weights").materialize(place.store, place.pipeline, "alpha")
    made, _ = stage_named("union_weights").materialize(place.store, place.pipeline, "alpha")
    assert steps == [*range(1, 12), 11, 12]
    learned, uninterrupted = (
        load_file(artifact.path / "controlnet" / "diffusion_pytorch_model.safetensors")
        for artifact in (made, finished.store.current("union_weights", "alpha"))
    )
    assert all(torch.equal(learned[name], value) for name, value in uninterrupted.items())


@pytest.mark.parametrize("own", [False, True])
def test_without_strength_the_source_comes_back(
    finished: Workplace, without_defect_free: Workplace, own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """s = 0 everywhere on a picture with its own defects; on a defect-free one everywhere but under and near the masks."""
    build = build_of(without_defect_free if own else finished, "union_images", "alpha", tmp_path)
    backbone, painted = load_adapted(build), []
    sample = sampling.sample_images
    monkeypatch.setattr(
        sampling, "sample_images", lambda *a, **named: painted.append(sample(*a, **named)) or painted[-1]
    )
    hypernetwork = backbone.load_hypernetwork(build.read(union.weights).path / "controlnet")
    canvases = read_canvases(build, union.canvases, union.canvases, union.drivers, "alpha")
    seeds = [image_seed(0, "alpha", str(n)) for n in range(len(canvases.masks))]
    sources = backbone.encode_pixels(canvases.backgrounds)
    for strength in (0.0, 0.9):
        sample_on_sources(
            backbone, hypernetwork, canvases, seeds, True, synthesis=build.settings.synthesis,
            prompt=build.settings.stablesdg.prompt, strength=strength, guidance=1.0,
            steps=build.settings.stablesdg.solver_steps, own=own,
        )  # fmt: skip
    kept, changed = ((latents == sources).all(dim=1) for latents in painted)
    far = strengths(backbone, canvases.masks, 0.0, build.settings.synthesis.fade) == 0  # from every mask
    assert far.any() and (kept.all() if own else torch.equal(kept, far))
    assert not changed[far].any()


def test_data_without_defect_free_pictures_gives_its_own_with_their_masks(without_defect_free: Workplace):
    store = without_defect_free.store
    made, images = store.current("union_canvases", "alpha"), open_dataset(store.current("inspection_images")).images
    assert made.load(Canvassed).own and not store.partitions("mask_bank")
    train = images[(images["split"] == "train") & (images["defect_class"] == "alpha")]
    assert 0 < len(list((made.path / "images").iterdir())) <= len(train)
    painted = store.current("union_images", "alpha").path
    assert coco_problems(json.loads((painted / "annotations.json").read_text()), painted) == []
    assert store.current("union_faithfulness_report", "alpha").metadata["inside"] > 0


def test_the_union_is_compared_with_both_systems(
    finished: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = finished.store.current("union_images", "alpha")
    out = tmp_path / "out"
    assert main(["tables", "--store", str(finished.store_root), "--only", "union", "--to", str(out)]) == 0
    assert "KID, crops" in capsys.readouterr().out
    table = pd.read_csv(out / "table_union.csv").set_index("system")
    assert tuple(table.index) == comparison.SYSTEMS
    assert table["n"].tolist() == [12, 6, 12] and (table["classes"] == 2).all() and table["extractor"].nunique() == 1
    assert table["in mask"].isna().tolist() == table["accepted"].isna().tolist() == [False, True, False]
    assert table["kid crops"].nunique() == table["kid pictures"].nunique() == 3
    assert (out / "table_union.png").stat().st_size > 2000
    rows = pd.read_csv(finished.store.current("table_union").path / "cells.csv")
    assert list(zip(rows["class"], rows["system"], strict=True)) == [
        (k, s) for k in CLASSES for s in comparison.SYSTEMS
    ]
    assert finished.store.current("union_images", "alpha").digest == before.digest  # taken from the store
    monkeypatch.setattr(comparison, "compare", None)  # would raise if it were called
    assert main(["tables", "--store", str(finished.store_root)]) == 0  # of the store's own system


def _weights(backbone) -> dict[str, torch.Tensor]:
    networks = {"unet": backbone.unet, "text_encoder": backbone.text_encoder}
    return {f"{k}.{name}": value for k, network in networks.items() for name, value in network.state_dict().items()}
