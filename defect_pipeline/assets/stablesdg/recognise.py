"""What generated images are for: classifiers trained with and without them (paper B §4), measured on test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import recognition
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.generate import read_generated, stablesdg_images
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.checkpoints import load_weights, save_weights
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.crops import windows
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.sheets import bars, contact_sheet, curve
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from torch import nn

ARMS = ("real", "real and synthetic")
Labelled = tuple[np.ndarray, list[int]]  # images (n, S, S, 3) uint8, and the class of each


@stage(
    parents=(inspection_images, stablesdg_images),
    settings=("recognition", "drivers.size"),
    images=Subset(("train",), "defects"),
    group="stablesdg",
    kinds={"torch", "torchvision"},
    gpu=True,
)
def recognizer(build: Build) -> None:
    """Classifiers of the defect classes, each trained on real, and on real and synthetic images, for as many steps."""
    real = labelled(build.dataset, "train", build.settings.drivers.size)
    both = with_generated(real, [read_generated(build.read(stablesdg_images, k)) for k in build.classes])
    curves = {}
    for name in build.settings.recognition.models:
        for arm, data in zip(ARMS, (real, both), strict=True):
            model = recognition.learning.new_classifier(
                name, len(build.classes), seed=build.seed, device=build.settings.device
            )
            curves[f"{name}, {arm}"] = recognition.learning.train_recognizer(
                model, *data, build.settings.recognition, seed=build.seed,
                checkpoint=build.workdir / f"{name} {arm}.safetensors", progress=build.progress,
            )  # fmt: skip
            save_weights(model, build.path / _file(name, arm))
    build.metadata |= {"real images": len(real[1]), "synthetic images": len(both[1]) - len(real[1])}
    build.metadata["steps of each"] = build.settings.recognition.steps
    if all(curves.values()):
        build.picture("loss", curve(curves, "recognizer", "step", "loss"))


@dataclass(frozen=True)
class Recognised:
    """A classifier on the test images: accuracy, and of each class the share that was recognised."""

    model: str
    arm: str
    accuracy: float
    recall: dict[str, float]
    n: int


@stage(
    parents=(inspection_images, recognizer),
    settings=("recognition", "drivers.size"),
    images=Subset(("test",), "defects"),
    group="stablesdg",
    kinds={"torch"},
    gpu=True,
)
def recognition_report(build: Build) -> None:
    """Accuracy of each classifier with and without synthetic images, on the test split, with what it got wrong."""
    images, labels = labelled(build.dataset, "test", build.settings.drivers.size)
    truth, classes = np.array(labels), build.classes
    rows, wrong = [], []
    for name in build.settings.recognition.models:
        for arm in ARMS:
            model = recognition.learning.new_classifier(
                name, len(classes), seed=build.seed, device=build.settings.device
            )
            load_weights(model, build.read(recognizer).path / _file(name, arm))
            row, seen = recognised(name, arm, model, images, truth, classes)
            rows.append(row)
            wrong += [
                (images[i], f"{classes[truth[i]]}: {classes[seen[i]]}") for i in np.flatnonzero(seen != truth)[:8]
            ]
            build.progress(len(rows), len(build.settings.recognition.models) * len(ARMS))
    build.keep(rows)
    build.metadata["accuracy"] = [
        {"model": row.model, "trained on": row.arm, "accuracy": row.accuracy, **row.recall, "n": row.n} for row in rows
    ]
    names, values = [f"{row.model}\n{row.arm}" for row in rows], [row.accuracy for row in rows]
    errors = [float(np.sqrt(row.accuracy * (1 - row.accuracy) / row.n)) for row in rows]  # of a share
    build.picture("accuracy", bars(names, values, errors, "accuracy on test images, with standard error"))
    if wrong:
        build.picture("wrong", contact_sheet([image for image, _ in wrong], [text for _, text in wrong], columns=8))


def recognised(
    name: str, arm: str, model: nn.Module, images: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> tuple[Recognised, np.ndarray]:
    """What a classifier makes of images (n, S, S, 3) of classes ``truth`` (n,), and the class it sees in each (n,)."""
    seen = recognition.classifier.predict_classes(model, images).argmax(axis=1)
    recall = {k: float((seen[truth == i] == i).mean()) for i, k in enumerate(classes) if (truth == i).any()}
    return Recognised(name, arm, float((seen == truth).mean()), recall, len(truth)), seen


def labelled(dataset: Dataset, split: str, size: int) -> Labelled:
    """The split's images that show defects of exactly one class, as squares of ``size`` px.

    Raises PipelineError without any.
    """
    crops = [crop for i in dataset.of_split(split) for crop in windows(dataset, i, size)]
    shown = [(crop.image, {name for name, _ in crop.masks}) for crop in crops]
    kept = [(image, dataset.categories.index(next(iter(names)))) for image, names in shown if len(names) == 1]
    if not kept:
        raise PipelineError(f"No {split} image under {dataset.root} shows a defect of one class: add annotated images.")
    return np.stack([image for image, _ in kept]), [k for _, k in kept]


def with_generated(real: Labelled, generated: Sequence[Sequence[np.ndarray]]) -> Labelled:
    """Real images and those generated of each class, in the order of the classes."""
    return (
        np.concatenate([real[0], *map(np.stack, generated)]),
        real[1] + [k for k, part in enumerate(generated) for _ in part],
    )


def _file(name: str, arm: str) -> str:
    return f"{name}, {arm}.safetensors"
