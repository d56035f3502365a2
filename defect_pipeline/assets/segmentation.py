"""What the synthetic set is for: a segmentor trained in three regimes (paper A §5) and measured on the test split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import recognition
from defect_pipeline.assets.coco import Annotated, read_coco
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.checkpoints import (
    load_weights,
    read_tensors,
    save_weights,
    with_prefix,
    without_prefix,
    write_tensors,
)
from defect_pipeline.evaluation.segmentation import SegmentationFigures, segmentation_figures
from defect_pipeline.imaging.crops import Crop, whole, windows
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.sheets import contact_sheet, curve, overlay
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from torch import Tensor, nn

REGIMES = ("real", "synthetic", "synthetic_then_real")
REPORT = "figures.json"
CHECKPOINT_STEPS = 50


@stage(
    parents=("inspection_images", "sadf_coco"),
    settings=lambda pipeline: (pipeline.settings.segmentor, pipeline.settings.drivers.size),
    images=Subset(("train", "val")),
    group="recognition",
    kinds={"torch", "torchvision"},
    version="3",
    gpu=True,
)
def segmentor(build: Build) -> None:
    """A segmentor from real, from synthetic, and from synthetic tuned on real images; the same steps in each regime."""
    settings, dataset = build.settings.segmentor, build.dataset()
    defects, negatives = training_windows(dataset, build.settings.drivers.size)
    data = {
        "real": joined(defects, negatives),
        "synthetic": joined(read_coco(build.parent("sadf_coco").path, dataset.categories), negatives),
    }
    steps = settings.steps_for(len(data["real"][0]))
    curves = {}
    for regime in REGIMES:
        model = new_segmentor(build, build.pipeline.seed)
        stages = list(recognition.segmentor.regime_stages(regime, steps))
        curves[regime] = train_stages(build, model, regime, stages, data, seed=build.pipeline.seed)
        save_weights(model, build.path / f"{regime}.safetensors")
    build.metadata |= {f"{name} images": len(images) for name, (images, _) in data.items()}
    build.metadata |= {"steps in each regime": steps, "of these without a defect": len(negatives[0])}
    if all(curves.values()):
        build.picture("loss", curve(curves, "segmentor", "step", "loss"))


def train_stages(
    build: Build,
    model: nn.Module,
    name: str,
    stages: Sequence[tuple[str, int]],
    data: Mapping[str, Annotated],
    *,
    seed: int,
    strong: bool = False,
) -> list[tuple[float, float]]:
    """Train a model in place through stages of (data, steps), each going on from the weights before, with checkpoints.

    In its last stage the model is tried on real val images now and then, and it ends with the weights that did best on
    them: early stopping, but for the steps, which stay the same whatever the data.
    ``name`` tells one training of a build from another. Returns the loss curve since this process began.
    """
    settings, done, all_steps = build.settings.segmentor, 0, sum(steps for _, steps in stages)
    losses: list[tuple[float, float]] = []
    images, truth = validation_images(build)
    best: dict[str, Tensor] = {}
    for number, (source, steps) in enumerate(stages):
        file = build.workdir / f"{name}.{number}.safetensors"
        resume = read_tensors(file)
        best = without_prefix("best", resume or {})
        loop = recognition.segmentor.train_segmentor(
            model, *data[source], steps=steps, seed=seed, batch=settings.batch,
            learning_rate=settings.learning_rate, strong=strong, resume=resume,
        )  # fmt: skip
        for state in loop:
            if state.step % 10 == 0 or state.step == steps:
                losses.append((done + state.step, state.loss.item()))
                build.progress(done + state.step, all_steps, loss=losses[-1][1])
            if images and number == len(stages) - 1 and state.step in _trials(steps, settings.trials):
                seen = recognition.segmentor.predict(model, images)
                score = segmentation_figures(truth, seen, build.classes()).segm_map
                if not best or score >= best["score"]:
                    best = state.scored(score)
            if state.step % CHECKPOINT_STEPS == 0 or state.step == steps:
                write_tensors(file, {**state.state_dict(), **with_prefix("best", best)})
        done += steps
    if best:
        model.load_state_dict(without_prefix("parameters", best), strict=False)
    return losses


def _trials(steps: int, trials: int) -> set[int]:
    """The steps after which a stage of ``steps`` is tried: evenly over its second half, the last at its end."""
    return {round(steps * (trials + k) / (2 * trials)) for k in range(1, trials + 1)}


@stage(
    parents=("inspection_images", "segmentor"),
    settings=lambda pipeline: (pipeline.settings.segmentor, pipeline.settings.drivers.size),
    images=Subset(("test",)),
    group="recognition",
    kinds={"torch", "coco"},
    version="2",
    gpu=True,
)
def segmentation_report(build: Build) -> None:
    """segm and bbox mAP, IoU and Hausdorff distance of each regime on the test split, with pictures of what it sees."""
    dataset, size = build.dataset(), build.settings.drivers.size
    defects = annotated_images(dataset, "test", size, defective=True)
    images, truth = joined(defects, annotated_images(dataset, "test", size, defective=False))
    figures: dict[str, SegmentationFigures] = {}
    shown = [
        [
            overlay(image, _named(masks, dataset), class_colours(dataset.categories))
            for image, masks in zip(*defects, strict=True)
        ][:: _every(defects)]
    ]
    for regime in REGIMES:
        seen = recognition.segmentor.predict(load_segmentor(build, regime), images)
        figures[regime] = segmentation_figures(truth, seen, dataset.categories)
        found = [[(int(k), m) for k, m, s in zip(p.labels, p.masks, p.scores, strict=True) if s >= 0.5] for p in seen]
        shown.append(
            [
                overlay(images[i], _named(found[i], dataset), class_colours(dataset.categories))
                for i in range(0, len(defects[0]), _every(defects))
            ]
        )
        build.progress(len(figures), len(REGIMES))
    (build.path / REPORT).write_text(json.dumps({regime: asdict(part) for regime, part in figures.items()}))
    build.metadata |= {f"segm mAP {regime}": part.segm_map for regime, part in figures.items()}
    build.metadata["figures"] = [
        {"regime": regime} | {k: v for k, v in asdict(part).items() if not isinstance(v, dict)}
        for regime, part in figures.items()
    ]
    captions = [name for name in ("annotated", *REGIMES) for _ in shown[0]]
    build.picture("test images", contact_sheet([x for row in shown for x in row], captions, columns=len(shown[0])))


def read_figures(directory: Path) -> dict[str, SegmentationFigures]:
    """What a `segmentation_report` artifact says of each regime."""
    return {
        regime: SegmentationFigures(**part) for regime, part in json.loads((directory / REPORT).read_text()).items()
    }


def load_segmentor(build: Build, regime: str) -> nn.Module:
    """The segmentor as a regime left it."""
    model = new_segmentor(build, build.pipeline.seed)
    load_weights(model, build.parent("segmentor").path / f"{regime}.safetensors")
    return model


def new_segmentor(build: Build, seed: int) -> nn.Module:
    """Untrained but for its backbone; its heads are drawn from the seed."""
    settings = build.settings.segmentor
    weights = Path(settings.weights) if settings.weights else None
    model = recognition.segmentor.build_segmentor(
        len(build.classes()), build.settings.drivers.size, settings.backbone, weights, seed=seed
    )
    return model.to(build.settings.device)


def training_windows(dataset: Dataset, size: int) -> tuple[Annotated, Annotated]:
    """Windows of the train images with a visible defect, and half as many without: the same in every regime and arm."""
    defects, clean = (annotated_windows(dataset, "train", size, defective=defective) for defective in (True, False))
    n = len(defects[0]) // 2
    return defects, (clean[0][:n], clean[1][:n])


def validation_images(build: Build) -> Annotated:
    """The val images with a defect, and as many without."""
    dataset, size = build.dataset(), build.settings.drivers.size
    defects, clean = (annotated_images(dataset, "val", size, defective=defective) for defective in (True, False))
    n = len(defects[0])
    return joined(defects, (clean[0][:n], clean[1][:n]))


def annotated_windows(dataset: Dataset, split: str, size: int, *, defective: bool) -> Annotated:
    """Square windows of the split's images with, or without, a visible defect."""
    ids = _ids(dataset, split, defective=defective)
    return annotated(dataset, [c for i in ids for c in windows(dataset, i, size) if bool(c.masks) == defective])


def annotated_images(dataset: Dataset, split: str, size: int, *, defective: bool) -> Annotated:
    """The split's images with, or without, a defect, as they are: windows would cut defects to pieces."""
    return annotated(dataset, [whole(dataset, i, size) for i in _ids(dataset, split, defective=defective)])


def _ids(dataset: Dataset, split: str, *, defective: bool) -> list[int]:
    return [i for i in dataset.of_split(split) if (dataset.images.at[i, "defect_class"] != "") == defective]


def annotated(dataset: Dataset, crops: Sequence[Crop]) -> Annotated:
    """The crops' images, and their masks by the number of the class."""
    return [c.image for c in crops], [[(dataset.categories.index(k), mask) for k, mask in c.masks] for c in crops]


def joined(a: Annotated, b: Annotated) -> Annotated:
    """The images of both, one after the other."""
    return a[0] + b[0], a[1] + b[1]


def _named(instances: list[tuple[int, np.ndarray]], dataset: Dataset) -> list[tuple[str, np.ndarray]]:
    return [(dataset.categories[k], mask) for k, mask in instances]


def _every(defects: Annotated) -> int:
    """The stride that shows ten images."""
    return max(1, len(defects[0]) // 10)
