"""The one driver of every training: checkpoints, progress and the loss curve, whatever is trained.

A training loop is a generator: it takes what its `State.state_dict` was, or None, and yields its state after each step. What
is drawn in a step comes from the seed and the step alone, so a training that goes on from a checkpoint ends as one that
nobody stopped, bit for bit. Nothing here loads torch (see `lazy`): the loop brings it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from defect_pipeline.checkpoints import ForeignCheckpointError, read_tensors, write_tensors
from defect_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from torch import Tensor

SYNC_STEPS = 10  # from one reading of the loss, for which the device is waited for, to the next
Curve = list[tuple[int, float]]  # (step, loss)


class State(Protocol):
    """What a step leaves behind; the loss is a scalar tensor, so that nobody waits for the device to go on."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def loss(self) -> Tensor: ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that a training needs to go on, as references: to be written before the next step."""


S = TypeVar("S", bound=State)
Loop = Callable[[Mapping[str, "Tensor"] | None], Iterator[S]]  # from where it was left to its states


class Progress(Protocol):
    """Told where a training stands: ``done`` of ``total`` steps, and figures by name."""

    def __call__(self, done: int, total: int, **figures: float) -> None: ...


def silent(done: int, total: int, **figures: float) -> None:
    """A `Progress` for nobody."""


def resumed(loop: Loop[S], checkpoint: Path, *, steps: int, every: int) -> Iterator[S]:
    """The states of a loop that begins where the checkpoint was left; it is written ``every`` so many steps and at the end.

    Without the file, or with a damaged one, it begins anew. Raises PipelineError for a checkpoint of another network.
    """
    try:
        for state in loop(read_tensors(checkpoint)):
            if state.step % every == 0 or state.step == steps:
                write_tensors(checkpoint, state.state_dict())
            yield state
    except ForeignCheckpointError as error:
        raise PipelineError(
            f"{checkpoint} is a checkpoint of another network; remove it, or name another folder."
        ) from error


def run_training(
    loop: Loop[S],
    checkpoint: Path,
    *,
    steps: int,
    every: int,
    progress: Progress = silent,
    watch: Callable[[int], None] = lambda step: None,
) -> Curve:
    """Run a loop to its end as `resumed` does, and return the loss of each step since this process began.

    ``progress`` receives the mean loss of the last SYNC_STEPS steps, every so many steps; ``watch`` is called after each.
    """
    import torch

    losses: list[tuple[int, Tensor]] = []
    began = time.perf_counter()
    for state in resumed(loop, checkpoint, steps=steps, every=every):
        losses.append((state.step, state.loss))
        watch(state.step)
        if state.step % SYNC_STEPS == 0 or state.step == steps:  # the only sync point of a training
            recent = torch.stack([loss for _, loss in losses[-SYNC_STEPS:]]).mean().item()
            pace = len(losses) / (time.perf_counter() - began)
            progress(state.step, steps, loss=recent, steps_per_second=pace)
    return [(step, loss.item()) for step, loss in losses]
