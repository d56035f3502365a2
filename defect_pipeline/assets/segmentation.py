"""What the synthetic set is for: a segmentor trained in three regimes (paper A §5) and measured on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import recognition
from defect_pipeline.assets.coco import read_coco
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.checkpoints import load_weights, save_weights
from defect_pipeline.evaluation.segmentation import SegmentationFigures, segmentation_figures
from defect_pipeline.imaging.coco import Annotated
from defect_pipeline.imaging.crops import Crop, whole, windows
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.sheets import contact_sheet, curve, overlay
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.profiles import Segmentor

if TYPE_CHECKING:
    from torch import nn

    from defect_pipeline.recognition.learning import Judge

REGIMES = ("real", "synthetic", "synthetic_then_real")


def segmentor(joined_set: Stage, *, name: str, group: str) -> Stage:
    """The stage that trains a segmentor in three regimes."""

    @stage(
        name=name,
        parents=(inspection_images, joined_set),
        settings=("segmentor", "drivers.size"),
        images=Subset(("train", "val")),
        group=group,
        kinds={"torch", "torchvision"},
        version="3",
        gpu=True,
    )
    def make(build: Build) -> None:
        """A segmentor from real, from synthetic, and from synthetic tuned on real images; the same steps in each regime."""
        settings, dataset, size = build.settings.segmentor, build.dataset, build.settings.drivers.size
        defects, negatives = training_windows(dataset, size)
        data = {
            "real": joined(defects, negatives),
            "synthetic": joined(read_coco(build.read(joined_set).path, dataset.categories), negatives),
        }
        steps = settings.steps_for(len(data["real"][0]))
        curves, judge = {}, judged_on(validation_images(dataset, size), dataset.categories)
        for regime in REGIMES:
            model = recognition.learning.new_segmentor(
                len(dataset.categories), size, settings, seed=build.seed, device=build.settings.device
            )
            curves[regime] = recognition.learning.train_stages(
                model, recognition.segmentor.regime_stages(regime, steps), data, settings, seed=build.seed,
                workdir=build.workdir, name=regime, judge=judge, progress=build.progress,
            )  # fmt: skip
            save_weights(model, build.path / f"{regime}.safetensors")
        build.metadata |= {f"{source} images": len(images) for source, (images, _) in data.items()}
        build.metadata |= {"steps in each regime": steps, "of these without a defect": len(negatives[0])}
        if all(curves.values()):
            build.picture("loss", curve(curves, "segmentor", "step", "loss"))

    return make


def segmentation_report(segmentor: Stage, *, name: str, group: str) -> Stage:
    """The stage that measures a segmentor of each regime."""

    @stage(
        name=name,
        parents=(inspection_images, segmentor),
        settings=("segmentor", "drivers.size"),
        images=Subset(("test",)),
        group=group,
        kinds={"torch", "coco"},
        version="2",
        gpu=True,
    )
    def make(build: Build) -> None:
        """segm and bbox mAP, IoU and Hausdorff distance of each regime on the test split, with pictures of what it sees."""
        dataset, size = build.dataset, build.settings.drivers.size
        defects = annotated_images(dataset, "test", size, defective=True)
        images, truth = joined(defects, annotated_images(dataset, "test", size, defective=False))
        figures: dict[str, SegmentationFigures] = {}
        shown = [
            [
                overlay(image, _named(masks, dataset), class_colours(dataset.categories))
                for image, masks in zip(*defects, strict=True)
            ][:: _every(defects)]
        ]
        load = partial(
            load_segmentor, build.read(segmentor).path, classes=len(dataset.categories), size=size,
            settings=build.settings.segmentor, seed=build.seed, device=build.settings.device,
        )  # fmt: skip
        for regime in REGIMES:
            seen = recognition.segmentor.predict(load(regime), images)
            figures[regime] = segmentation_figures(truth, seen, dataset.categories)
            found = [
                [(int(k), m) for k, m, s in zip(p.labels, p.masks, p.scores, strict=True) if s >= 0.5] for p in seen
            ]
            shown.append(
                [
                    overlay(images[i], _named(found[i], dataset), class_colours(dataset.categories))
                    for i in range(0, len(defects[0]), _every(defects))
                ]
            )
            build.progress(len(figures), len(REGIMES))
        build.keep(figures)
        build.metadata |= {f"segm mAP {regime}": part.segm_map for regime, part in figures.items()}
        build.metadata["figures"] = [
            {"regime": regime} | {k: v for k, v in asdict(part).items() if not isinstance(v, dict)}
            for regime, part in figures.items()
        ]
        captions = [name for name in ("annotated", *REGIMES) for _ in shown[0]]
        build.picture("test images", contact_sheet([x for row in shown for x in row], captions, columns=len(shown[0])))

    return make


def load_segmentor(
    directory: Path, regime: str, classes: int, size: int, settings: Segmentor, *, seed: int, device: str
) -> nn.Module:
    """The segmentor as a regime left it in the directory of a `segmentor` artifact."""
    model = recognition.learning.new_segmentor(classes, size, settings, seed=seed, device=device)
    load_weights(model, directory / f"{regime}.safetensors")
    return model


def training_windows(dataset: Dataset, size: int) -> tuple[Annotated, Annotated]:
    """Windows of the train images with a visible defect, and half as many without: the same in every regime and arm."""
    defects, clean = (annotated_windows(dataset, "train", size, defective=defective) for defective in (True, False))
    n = len(defects[0]) // 2
    return defects, (clean[0][:n], clean[1][:n])


def validation_images(dataset: Dataset, size: int) -> Annotated:
    """The val images with a defect, and as many without."""
    defects, clean = (annotated_images(dataset, "val", size, defective=defective) for defective in (True, False))
    n = len(defects[0])
    return joined(defects, (clean[0][:n], clean[1][:n]))


def judged_on(known: Annotated, categories: Sequence[str]) -> Judge | None:
    """What a segmentor is worth on these images: segm mAP. None without an image."""
    images, truth = known

    def judge(model: nn.Module) -> float:
        return segmentation_figures(truth, recognition.segmentor.predict(model, images), categories).segm_map

    return judge if images else None


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
