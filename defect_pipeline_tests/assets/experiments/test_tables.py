"""The tables on a tiny component, with six arms and two seeds: what each cell has and has not seen."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from defect_pipeline import profiles
from defect_pipeline.assets.experiments import downstream, generators
from defect_pipeline.assets.experiments.downstream import ARMS, CELLS, STRONG
from defect_pipeline.assets.experiments.generators import SEED_CELLS
from defect_pipeline.assets.order import ORDERS
from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.cli import main
from defect_pipeline.recognition import learning
from defect_pipeline.recognition.segmentor import Prediction
from defect_pipeline.store import Store
from defect_pipeline.systems import sadf
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import stage_named, tiny, write_component

SOME_ARMS = ("real", STRONG, "copy-paste, then real", "synthetic", "synthetic, then real", "synthetic mixed with real")
SOME_SEEDS = (0, 1)


@pytest.fixture(scope="module")
def finished(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory):
    profile = replace(tiny("tables", tiny_backbone), downstream=profiles.Downstream(steps=2))
    profiles.PROFILES["tables"] = profile
    base = tmp_path_factory.mktemp("tables")
    write_component(base / "data")
    arguments = ["--data", str(base / "data"), "--store", str(base / "store"), "--profile", "tables"]
    kept = {arm: ARMS[arm] for arm in SOME_ARMS}
    cells = {key: cell for key, cell in CELLS.items() if cell.arm in kept and cell.seed in SOME_SEEDS}
    seeds = {key: seed for key, seed in SEED_CELLS.items() if seed in SOME_SEEDS}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RESAMPLES": 5, "ARMS": kept, "SEEDS": SOME_SEEDS, "CELLS": cells}.items():
            patch.setattr(downstream, name, value)
        patch.setattr(generators, "SEED_CELLS", seeds)
        for table, own in (("table_1", cells), ("table_2", cells), ("table_3", seeds), ("table_4", seeds)):
            patch.setitem(stage_named(f"{table}_cell").__dict__, "cells", tuple(own))
        assert main(["tables", *arguments, "--to", str(base / "out")]) == 0
        yield Workplace.at(base / "store"), base / "out"
    del profiles.PROFILES["tables"]


def test_every_cell_is_in_a_table(finished: tuple[Workplace, Path]):
    for name in ("table_1", "table_2"):
        table = pd.read_csv(finished[1] / f"{name}.csv")
        assert table["arm"].tolist() == list(SOME_ARMS) and (table["seeds"] == len(SOME_SEEDS)).all()
        real = table.set_index("arm").loc["real"]
        assert real["gain"] == real["gain low"] == real["gain high"] == 0
        assert (finished[1] / f"{name}.png").stat().st_size > 2000


def test_arms_take_equal_steps_and_what_they_saw_is_counted(finished: tuple[Workplace, Path]):
    real_images = {}
    for name in ("table_1", "table_2"):
        cells = pd.read_csv(finished[0].store.current(name).path / "cells.csv")
        assert len(cells) == len(SOME_ARMS) * len(SOME_SEEDS)
        seen = cells.set_index(["arm", "seed"])["each real image seen"]
        assert seen["synthetic"].eq(0).all()
        assert np.allclose(seen["real"], 2 * seen["synthetic, then real"])
        assert np.allclose(seen["real"], 2 * seen["synthetic mixed with real"])
        real_images[name] = cells["real images"]
    assert real_images["table_2"].max() < real_images["table_1"].min()


def test_half_of_a_mixed_source_is_real(monkeypatch: pytest.MonkeyPatch):
    """Every real image as often as any other, whatever the number of synthetic ones."""

    def images(value: int, n: int):
        return [np.full((4, 4, 3), value + i, np.uint8) for i in range(n)], [[] for _ in range(n)]

    chain = SimpleNamespace(dataset=SimpleNamespace(categories=()), read=lambda one: SimpleNamespace(path=None))
    monkeypatch.setattr(downstream, "training_windows", lambda dataset, size: (images(0, 2), images(100, 1)))
    monkeypatch.setattr(downstream, "read_coco", lambda *_: images(200, 8))
    mixed, _ = downstream._sources({"real", "mixed"}, chain, sadf.masked, 4)["mixed"]
    values = [int(image[0, 0, 0]) for image in mixed]
    assert values[:9] == [*range(200, 208), 100] and sorted(values[9:]) == [0, 0, 0, 1, 1, 1, 100, 100, 100]


def test_a_tenth_of_the_groups_is_all_that_a_cell_of_table_2_has_seen(finished: tuple[Workplace, Path]):
    place, _ = finished
    whole = open_dataset(place.store.current("inspection_images")).images
    stores = [Store(root=str(path)) for path in sorted(place.store.cache("experiments").iterdir())]
    assert len(stores) == 2 * len(SOME_SEEDS)  # one for Tables 1 and 3, one for 2 and 4
    sizes, tested = [], set()
    for store in stores:
        images = open_dataset(store.current("inspection_images")).images
        sizes.append(int(((images["split"] == "train") & (images["defect_class"] != "")).sum()))
        assert images.groupby("group")["split"].nunique().eq(1).all()
        tested.add(tuple(images.index[images["split"] == "test"]))
        used = store.current("topological_drivers", "alpha").metadata["train images"]
        assert used == ((images["split"] == "train") & (images["defect_class"] == "alpha")).sum()
    assert min(sizes) < max(sizes)
    assert len(tested) == len(SOME_SEEDS)  # each seed's split is its own, and that of both shares
    assert tuple(whole.index[whole["split"] == "test"]) in tested  # of the run's own seed: the run's own split


def test_variety_is_of_every_class_and_seed(finished: tuple[Workplace, Path]):
    table = pd.read_csv(finished[1] / "table_3.csv")
    assert table["images"].tolist() == ["all from noise", "as shipped", "inpainting"]
    assert (table["seeds"] == len(SOME_SEEDS)).all() and (table["l2 low"] <= table["l2"]).all()
    cells = pd.read_csv(finished[0].store.current("table_3").path / "cells.csv")
    assert len(cells) == len(table) * len(SOME_SEEDS) * 2  # classes
    assert np.allclose(table.set_index("images")["l2"], cells.groupby("images")["l2"].mean())


def test_the_order_of_learning_is_compared_seed_by_seed(finished: tuple[Workplace, Path]):
    table = pd.read_csv(finished[1] / "table_4.csv").set_index("order")
    alone, both = (table.loc[order] for order in ORDERS)
    assert alone["kid change"] == alone["kid change low"] == alone["kid change high"] == 0
    assert both["kid change"] == pytest.approx(both["kid"] - alone["kid"]) and both["kid change"] != 0
    whole = open_dataset(finished[0].store.current("inspection_images")).images
    train = whole[(whole["split"] == "train") & (whole["defect_class"] != "")]
    assert 0 < alone["groups"] < train["group"].nunique()


def test_a_second_call_trains_nothing(finished: tuple[Workplace, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning, "train_stages", None)  # would raise if it were called
    assert main(["tables", "--store", str(finished[0].store_root), "--only", "2"]) == 0


def test_detections_survive_the_disk():
    mask = np.zeros((1, 6, 5), bool)
    mask[0, 1:3, 2:4] = True
    seen = Prediction(mask, np.array([[2, 1, 4, 3]], np.float32), np.array([0.5], np.float32), np.array([1]))
    none = Prediction(mask[:0], np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    packed = json.loads(json.dumps([downstream._packed([(0, mask[0])], seen, "a"), downstream._packed([], none, "b")]))
    truth, read, groups = downstream._unpacked(packed)
    assert groups == ["a", "b"] and truth[1] == [] and np.array_equal(truth[0][0][1], mask[0])
    for before, after in zip((seen, none), read, strict=True):
        assert all(
            np.array_equal(getattr(before, f), getattr(after, f)) for f in ("masks", "boxes", "scores", "labels")
        )
        assert after.masks.shape == before.masks.shape
