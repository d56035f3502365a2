"""What generated images are worth to a classifier: paper B, Table VI and Fig. 9, over random shares of the train side.

A cell is a share and a seed. Its generator has seen the real images of that share alone, as its classifiers have.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from defect_pipeline import recognition
from defect_pipeline.assets.experiments.rows import interval, keep_rows, keep_table, rows_of, table_stage
from defect_pipeline.assets.experiments.shares import SEEDS, chain_of
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import lora_weights, token_embedding
from defect_pipeline.assets.stablesdg.generate import read_generated, stablesdg_images
from defect_pipeline.assets.stablesdg.recognise import (
    labelled,
    recognised,
    with_generated,
)
from defect_pipeline.assets.stablesdg.tune import strength_and_guidance
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.imaging.sheets import bars, curve
from defect_pipeline.lazy import pd

REAL, STRONG, SYNTHETIC = ARMS = ("real", "real, strongly augmented", "real and synthetic")
FEW, MORE = "40%", ("60%", "80%")
FEW_CELLS = {f"{FEW} (seed {seed})": (FEW, seed) for seed in SEEDS}
MORE_CELLS = {f"{share} (seed {seed})": (share, seed) for share, seed in product(MORE, SEEDS)}


CHAIN = (token_embedding, lora_weights, strength_and_guidance, stablesdg_images)
cells_stage = partial(
    stage, parents=(inspection_images,), settings=("recognition", "splits", "drivers.size"), makes=CHAIN,
    group="experiments", kinds={"torch", "torchvision"}, version="2", gpu=True,
)  # fmt: skip


@cells_stage(cells=tuple(FEW_CELLS))
def table_vi_cell(build: Build) -> None:
    """Classifiers of every arm with two fifths of the train groups and one seed, on the test images."""
    _measure(build, *FEW_CELLS[build.partition or ""])


@cells_stage(cells=tuple(MORE_CELLS))
def figure_9_cell(build: Build) -> None:
    """Classifiers of every arm with a larger share of the train groups and one seed, on the test images."""
    _measure(build, *MORE_CELLS[build.partition or ""])


def _measure(build: Build, share: str, seed: int) -> None:
    chain, size = chain_of(build, share, seed), build.settings.drivers.size
    real = labelled(chain.dataset, "train", size)
    made = [read_generated(chain.read(stablesdg_images, k)) for k in build.classes]
    data = {REAL: real, STRONG: real, SYNTHETIC: with_generated(real, made)}
    images, labels = labelled(chain.dataset, "test", size)
    rows = []
    for name, arm in product(build.settings.recognition.models, ARMS):
        model = recognition.learning.new_classifier(name, len(build.classes), seed=seed, device=build.settings.device)
        recognition.learning.train_recognizer(
            model, *data[arm], build.settings.recognition, seed=seed, strong=arm == STRONG,
            checkpoint=build.workdir / f"{name} {arm}.safetensors", progress=build.progress,
        )  # fmt: skip
        found, _ = recognised(name, arm, model, images, np.array(labels), build.classes)
        rows.append(
            {
                "share": share, "seed": seed, "model": name, "arm": arm, "accuracy": found.accuracy, "n": found.n,
                "real images": len(real[1]), "synthetic images": len(data[arm][1]) - len(real[1]), **found.recall,
            }
        )  # fmt: skip
        build.progress(len(rows), len(build.settings.recognition.models) * len(ARMS), accuracy=found.accuracy)
    keep_rows(build, rows)


@table_stage(table_vi_cell)
def table_vi(build: Build) -> None:
    """Paper B, Table VI: accuracy with two fifths of the train groups, with and without generated images, and the gain."""
    rows = rows_of(build, table_vi_cell, FEW_CELLS)
    table = _compared(rows, build.seed)
    keep_table(build, "table_vi", table, rows)
    names = [f"{model}\n{arm}" for model, arm in zip(table["model"], table["arm"], strict=True)]
    title = "accuracy on test images, with its spread over seeds"
    build.picture("table_vi", bars(names, table["accuracy"].tolist(), table["accuracy std"].tolist(), title))


@table_stage(table_vi_cell, figure_9_cell)
def figure_9(build: Build) -> None:
    """Paper B, Fig. 9: accuracy over the share of real images, with and without generated ones."""
    rows = pd.concat([rows_of(build, table_vi_cell, FEW_CELLS), rows_of(build, figure_9_cell, MORE_CELLS)])
    table = _compared(rows, build.seed)
    keep_table(build, "figure_9", table, rows)
    lines = {
        f"{model}, {arm}": list(zip(own["share"].str.rstrip("%").astype(float), own["accuracy"], strict=True))
        for (model, arm), own in table.groupby(["model", "arm"], sort=False)
    }
    build.picture("figure_9", curve(lines, "accuracy on test images", "share of the train groups in %", "accuracy"))


def _compared(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A line for each share, classifier and arm: its accuracy over seeds, and its gain over real images, seed by seed."""
    lines = []
    for (share, model), own in rows.groupby(["share", "model"], sort=False):
        by_arm = own.pivot(index="seed", columns="arm", values="accuracy")
        for arm in ARMS:
            line = {"share": share, "model": model, "arm": arm}
            line |= {"accuracy": by_arm[arm].mean(), "accuracy std": by_arm[arm].std()}
            line |= interval(by_arm[arm] - by_arm[REAL], "gain", seed)
            chosen = own[own["arm"] == arm]
            line |= {name: chosen[name].mean() for name in ("real images", "synthetic images", "n")}
            lines.append(line | {"seeds": len(by_arm)})
    return pd.DataFrame(lines)
