"""The second system's tables on a tiny component, with two seeds."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from defect_pipeline import profiles
from defect_pipeline.assets.experiments import adaptation, comparison, painted, recognition
from defect_pipeline.assets.experiments.adaptation import ADAPTED, WAYS
from defect_pipeline.assets.experiments.comparison import GENERATORS
from defect_pipeline.assets.experiments.painted import UNCHANGED
from defect_pipeline.assets.experiments.recognition import ARMS, FEW, MORE, REAL, SYNTHETIC
from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.baselines import dcgan
from defect_pipeline.cli import main
from defect_pipeline.imaging.io import read_image
from defect_pipeline.recognition import learning
from defect_pipeline.store import Store
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import build_of, stage_named, tiny, write_component

CLASSES = ("alpha", "beta")
SEEDS = (0, 1)
IMAGES = 3
GRID = ((0.5, 1.0), (1.0, 3.0))
PROMPTS = ("<unknown>", "a surface with <unknown>")


@pytest.fixture(scope="module")
def finished(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory):
    profiles.PROFILES["tables-b"] = replace(
        tiny("tables-b", tiny_backbone),
        stablesdg=replace(
            profiles.EMBEDDED.stablesdg, tune=False, token_steps=2, steps=2, batch=2, images=IMAGES, solver_steps=2
        ),
        baselines=replace(
            profiles.EMBEDDED.baselines,
            gan_size=32,
            gan_width=4,
            gan_steps=3,
            gan_batch=2,
            ddim_widths=(8, 16),
            ddim_steps=2,
            ddim_batch=2,
            ddim_solver_steps=2,
        ),
        recognition=profiles.Recognition(models=("squeezenet",), steps=2, batch=4),
    )
    base = tmp_path_factory.mktemp("tables-b")
    write_component(base / "data")
    arguments = ["--data", str(base / "data"), "--store", str(base / "store"), "--profile", "tables-b"]
    few, more = (
        {key: cell for key, cell in cells.items() if cell[1] in SEEDS and cell[0] != MORE[0]}
        for cells in (recognition.FEW_CELLS, recognition.MORE_CELLS)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "GRID", GRID)
        patch.setattr(adaptation, "PROMPTS", PROMPTS)
        patch.setattr(recognition, "FEW_CELLS", few)
        patch.setattr(recognition, "MORE_CELLS", more)
        for name, own in (("table_vi", few), ("figure_9", more)):
            patch.setitem(stage_named(f"{name}_cell").__dict__, "cells", tuple(own))
        assert main(["tables", *arguments, "--system", "stablesdg", "--to", str(base / "out")]) == 0
        yield Workplace.at(base / "store"), base / "out"
    del profiles.PROFILES["tables-b"]


def test_every_stage_is_judged_from_noise_and_from_real_images(finished: tuple[Workplace, Path]):
    table = pd.read_csv(finished[1] / "table_ii.csv")
    wanted = [("nothing", UNCHANGED), *((learned, way) for learned in ADAPTED for way in WAYS)]
    assert list(zip(table["learned"], table["images"], strict=True)) == wanted
    assert (table["classes"] == len(CLASSES)).all() and (table["n"][1:] == len(CLASSES) * IMAGES).all()
    assert table["kid"].nunique() == len(table)  # no two trainings gave the same images
    assert (table["kid low"] <= table["kid"]).all() and (table["kid"] <= table["kid high"]).all()
    assert (finished[1] / "table_ii.png").stat().st_size > 2000


def test_prompts_strengths_and_guidances_are_compared(finished: tuple[Workplace, Path]):
    prompts = pd.read_csv(finished[1] / "table_iii.csv")
    assert prompts["prompt"].tolist() == list(PROMPTS) and prompts["kid"].nunique() == len(PROMPTS)
    grid = pd.read_csv(finished[1] / "table_iv.csv")
    assert list(zip(grid["strength"], grid["guidance"], strict=True)) == list(product(*GRID))
    assert (grid["n"] == len(CLASSES) * IMAGES).all() and grid["kid"].nunique() == len(grid)
    assert all((finished[1] / f"table_{name}.png").stat().st_size > 2000 for name in ("iii", "iv"))


def test_generators_are_compared_class_by_class_on_as_many_images(finished: tuple[Workplace, Path]):
    table, cells = pd.read_csv(finished[1] / "table_v.csv"), _cells(finished[0], "table_v")
    assert table["generator"].tolist() == list(GENERATORS) and table["kid"].nunique() == len(table)
    assert (cells["n"] == IMAGES).all() and (table["n"] == len(CLASSES) * IMAGES).all()
    for figure in ("kid", "fid", "copies"):
        of_each = cells.pivot(index="generator", columns="class", values=figure).loc[table["generator"]]
        assert np.allclose(table[[f"{figure}, {k}" for k in CLASSES]], of_each[list(CLASSES)])
    steps = table.set_index("generator")["steps"]
    assert steps.tolist() == [3, 2, 2, 2, 4, 0]  # of the two stages of the second system: both
    assert (table["minutes"][:-1] > 0).all() and table["minutes"].iloc[-1] == 0
    assert table["copies"].iloc[-1] == cells[cells["generator"] == UNCHANGED]["copies"].mean() > 0
    assert (finished[1] / "table_v.png").stat().st_size > 2000
    sheet = read_image(finished[0].store.current("table_v_cell", "alpha").path / "pictures" / "images.png")
    assert sheet.shape[:2] == (len(GENERATORS) * (128 + 14), IMAGES * 128)


def test_what_was_trained_before_a_kill_is_not_trained_again(finished: tuple[Workplace, Path], tmp_path: Path):
    """It paints the same, and its minutes are not forgotten."""
    build = build_of(finished[0], "table_v_cell", "alpha", tmp_path)
    crops = adaptation.train_windows(build)
    for generate in (comparison._dcgan, comparison._ddim, comparison._dreambooth):
        first, again = generate(build, crops), generate(build, crops)
        assert np.array_equal(first.images, again.images) and first.minutes == again.minutes > 0
    assert first.images[0].shape == crops[0].image.shape and len(first.images) == IMAGES


def test_what_learned_is_what_the_row_says(finished: tuple[Workplace, Path], tmp_path: Path):
    """The token alone leaves both networks as they are; all parameters move them, adapters do so in attention alone."""
    build = build_of(finished[0], "table_ii_cell", "alpha", tmp_path)
    untouched = adaptation.load_untouched(build.settings).unet.state_dict()
    changed = {}
    for learned, adapted in ADAPTED.items():
        backbone, prompt = adapted(build, adaptation.train_windows(build))
        now = backbone.unet.state_dict()
        changed[learned] = {
            name.replace(".base_layer", "")
            for name, value in now.items()
            if ("lora_" in name and value.any())
            or not np.array_equal(value, untouched.get(name.replace(".base_layer", ""), value))
        }
        assert ("<unknown>" in prompt) == ("token" in learned) and ("alpha" in prompt) != ("token" in learned)
    assert not changed["token"]
    assert changed["adapters"] and all(".attn" in name for name in changed["adapters"])
    assert any("conv" in name for name in changed["all parameters"])


def test_classifiers_and_generators_see_the_share_alone(finished: tuple[Workplace, Path]):
    place, _ = finished
    whole = open_dataset(place.store.current("inspection_images")).images
    stores = [Store(root=str(path)) for path in sorted(place.store.cache("experiments").iterdir())]
    assert len(stores) == len(SEEDS) * 2  # shares
    sides = [open_dataset(store.current("inspection_images")).images["split"] for store in stores]
    assert len({tuple(whole.index[side == "test"]) for side in sides}) == len(SEEDS)  # one for both shares of a seed
    assert min((side == "train").sum() for side in sides) < (whole["split"] == "train").sum()
    cells = _cells(place, "figure_9")
    assert sorted(set(cells["real images"])) == sorted(
        {
            int(
                (
                    open_dataset(s.current("inspection_images")).images.query("split == 'train'")["defect_class"] != ""
                ).sum()
            )
            for s in stores
        }
    )
    synthetic = cells.set_index("arm")["synthetic images"]
    assert (synthetic[SYNTHETIC] == len(CLASSES) * IMAGES).all() and (synthetic[REAL] == 0).all()


def test_gains_are_paired_by_seed(finished: tuple[Workplace, Path]):
    for name, shares in (("table_vi", [FEW]), ("figure_9", [FEW, MORE[1]])):
        table = pd.read_csv(finished[1] / f"{name}.csv")
        assert table["share"].unique().tolist() == shares and table["arm"].tolist() == list(ARMS) * len(shares)
        assert (table["seeds"] == len(SEEDS)).all() and table["accuracy"].between(0, 1).all()
        real = table[table["arm"] == REAL].set_index("share")["accuracy"]
        assert np.allclose(table["gain"], table["accuracy"] - table["share"].map(real))


def test_a_second_call_trains_nothing(finished: tuple[Workplace, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning, "train_recognizer", None)  # would raise if it were called
    monkeypatch.setattr(painted, "image_oriented", None)
    monkeypatch.setattr(dcgan, "train_dcgan", None)
    assert main(["tables", "--store", str(finished[0].store_root)]) == 0


def _cells(place: Workplace, table: str) -> pd.DataFrame:
    return pd.read_csv(place.store.current(table).path / "cells.csv")
