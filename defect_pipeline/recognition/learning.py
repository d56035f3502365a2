"""Segmentors and classifiers learn: their loops, run with checkpoints, and early stopping on real val images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from defect_pipeline.checkpoints import with_prefix, without_prefix
from defect_pipeline.imaging.coco import Annotated
from defect_pipeline.profiles import Recognition, Segmentor
from defect_pipeline.recognition import classifier, segmentor
from defect_pipeline.resumable import Curve, Progress, run_training, silent

CHECKPOINT_STEPS = 50
Judge = Callable[[nn.Module], float]  # what a segmentor is worth
Left = Mapping[str, Tensor] | None  # where a training was left


# --- Segmentors ----------------------------------------------------------------------------------------------------


def new_segmentor(num_classes: int, size: int, settings: Segmentor, *, seed: int, device: str) -> nn.Module:
    """Untrained but for its backbone, for images of ``size`` px; its heads are drawn from the seed."""
    weights = Path(settings.weights) if settings.weights else None
    return segmentor.build_segmentor(num_classes, size, settings.backbone, weights, seed=seed).to(device)


def train_stages(
    model: nn.Module,
    stages: Sequence[tuple[str, int]],
    data: Mapping[str, Annotated],
    settings: Segmentor,
    *,
    seed: int,
    workdir: Path,
    name: str,
    judge: Judge | None = None,
    strong: bool = False,
    progress: Progress = silent,
) -> Curve:
    """Train a segmentor in place through stages of (data, steps), each going on from the weights before.

    In its last stage ``judge`` tries the model now and then, on real val images, and it ends with the weights that did
    best: early stopping, but for the steps, which stay the same whatever the data. Checkpoints go to ``workdir``,
    where ``name`` tells one training from another. Returns the loss curve since this process began.
    """
    done, all_steps = 0, sum(steps for _, steps in stages)
    losses: Curve = []
    for number, (source, steps) in enumerate(stages):
        curve = _train_stage(
            model, data[source], steps, settings, workdir / f"{name}.{number}.safetensors", seed=seed, strong=strong,
            judge=judge if number == len(stages) - 1 else None, progress=_Later(progress, done, all_steps),
        )  # fmt: skip
        losses += [(done + step, loss) for step, loss in curve]
        done += steps
    return losses


def _train_stage(
    model: nn.Module,
    data: Annotated,
    steps: int,
    settings: Segmentor,
    checkpoint: Path,
    *,
    seed: int,
    strong: bool,
    judge: Judge | None,
    progress: Progress,
) -> Curve:
    def loop(left: Left) -> Iterator[_Tried]:
        training = segmentor.train_segmentor(
            model, *data, steps=steps, seed=seed, batch=settings.batch, learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay, warmup=settings.warmup, clip=settings.clip, strong=strong, resume=left,
        )  # fmt: skip
        tried = _trials(steps, settings.trials) if judge else set()
        return _keeping_the_best(training, model, judge, tried, without_prefix("best", left or {}))

    return run_training(loop, checkpoint, steps=steps, every=CHECKPOINT_STEPS, progress=progress)


@dataclass(frozen=True)
class _Later:
    """A `Progress` of a training that others of the same ``total`` went before."""

    progress: Progress
    done: int
    total: int

    def __call__(self, done: int, total: int, **figures: float) -> None:
        self.progress(self.done + done, self.total, **figures)


@dataclass(frozen=True)
class _Tried:
    """What a step leaves behind, and the weights that did best so far, with what they are worth."""

    state: segmentor.SegmentorTraining
    best: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def loss(self) -> Tensor:
        return self.state.loss

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.state.state_dict(), **with_prefix("best", self.best)}


def _keeping_the_best(
    training: Iterator[segmentor.SegmentorTraining],
    model: nn.Module,
    judge: Judge | None,
    tried: set[int],
    best: Mapping[str, Tensor],
) -> Iterator[_Tried]:
    """A training that ends with its best weights, by ``judge`` after the steps in ``tried``; of equals the last."""
    for state in training:
        if judge is not None and state.step in tried:
            score = judge(model)
            if not best or score >= best["score"]:
                best = state.scored(score)
        yield _Tried(state, best)
    if best:
        model.load_state_dict(without_prefix("parameters", best), strict=False)


def _trials(steps: int, trials: int) -> set[int]:
    """The steps after which a stage of ``steps`` is tried: evenly over its second half, the last at its end."""
    return {round(steps * (trials + k) / (2 * trials)) for k in range(1, trials + 1)}


# --- Classifiers ---------------------------------------------------------------------------------------------------


def new_classifier(name: str, num_classes: int, *, seed: int, device: str) -> nn.Module:
    """An untrained classifier on its device."""
    return classifier.build_classifier(name, num_classes, seed=seed).to(device)


def train_recognizer(
    model: nn.Module,
    images: np.ndarray,
    labels: Sequence[int],
    settings: Recognition,
    *,
    seed: int,
    checkpoint: Path,
    strong: bool = False,
    progress: Progress = silent,
) -> Curve:
    """Train a classifier in place on images (n, S, S, 3) uint8 of classes ``labels``, with checkpoints. The loss curve
    since this process began."""

    def loop(left: Left) -> Iterator[classifier.ClassifierTraining]:
        return classifier.train_classifier(
            model, images, labels, steps=settings.steps, seed=seed, batch=settings.batch,
            learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, warmup=settings.warmup,
            label_smoothing=settings.label_smoothing, strong=strong, resume=left,
        )  # fmt: skip

    return run_training(loop, checkpoint, steps=settings.steps, every=CHECKPOINT_STEPS, progress=progress)
