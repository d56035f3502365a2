"""One loss and one training loop for every adapter.

DreamBooth, the hypernetwork, textual inversion and LoRA differ only in which parameters train and in what a batch
holds. The loop is a generator: it yields its state after each step, and logging, checkpoints and previews stay outside.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from defect_pipeline.checkpoints import (
    optimizer_tensors,
    read_tensors,
    restore_optimizer,
    with_prefix,
    without_prefix,
    write_tensors,
)
from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.errors import PipelineError


def denoising_loss(
    unet: nn.Module,
    noising: Noising,
    z0: Tensor,
    text: Tensor | None,
    t: Tensor,
    noise: Tensor,
    residuals: Callable[[Tensor, Tensor, Any], dict[str, Any]] | None = None,
) -> Tensor:
    """Squared error of the U-Net's answer, per image and latent pixel (n, h, w), averaged over channels.

    ``z0`` (n, C, h, w) clean latents, ``text`` (n, L, D) embeddings or None for a U-Net without text, ``t`` (n,),
    ``noise`` like ``z0``. ``residuals`` maps (z_t, t, text) to the keyword arguments by which a hypernetwork steers the
    U-Net. Unreduced, because who calls weighs: prior preservation by image (DreamBooth, paper A §3.1), defects by pixel.
    """
    zt = noising.noisy(z0, noise, t)
    extra = residuals(zt, t, text) if residuals else {}
    answer = unet(zt, t, text, **extra).sample  # (n, C, h, w)
    return (answer.float() - noising.target(z0, noise, t)).square().mean(dim=1)


@dataclass
class TrainingState:
    """What a step leaves behind; ``loss`` is a tensor so that reading it is the caller's choice of sync point."""

    step: int  # steps done
    loss: Tensor
    seconds: float  # since this process began training
    images: int  # seen since this process began


def mean(losses: Sequence[Tensor]) -> float:
    """Of scalar tensors; waits for the device once."""
    return torch.stack(list(losses)).mean().item()


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> Generator:
    """Randomness of one step: a resumed run draws what an uninterrupted one would have drawn."""
    return Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)


def training_loop(
    parameters: Sequence[nn.Parameter],
    loss_at: Callable[[int, Generator], tuple[Tensor, int]],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    warmup: int = 0,
    decay: float = 0.0,
    weight_decay: float = 0.0,
    ema: float = 0.0,
    checkpoint: "Checkpoint | None" = None,
) -> Iterator[TrainingState]:
    """Train ``parameters`` with AdamW for ``steps`` steps and yield a `TrainingState` after each.

    ``loss_at(step, generator)`` gives a scalar loss and the number of images behind it. The rate warms up linearly over
    ``warmup`` steps and falls linearly to zero over the last ``decay`` share. With ``ema`` > 0 an exponential moving
    average is kept and left in the parameters at the end. With a checkpoint, training starts where the file says.
    """
    device = parameters[0].device
    # Short trainings: the large gradients of the first steps must be forgotten soon, and small ones count.
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.99), eps=1e-12, weight_decay=weight_decay, fused=True
    )
    average = [p.detach().clone() for p in parameters] if ema else []
    start = checkpoint.load(parameters, optimizer, average) if checkpoint else 0
    began, images = time.perf_counter(), 0
    for step in range(start, steps):
        rate = learning_rate * min(1.0, (step + 1) / max(warmup, 1), (steps - step) / max(decay * steps, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, n = loss_at(step, step_generator(seed, step, device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if ema:  # a young average follows faster, so that short trainings use it too
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(ema, (step + 1) / (step + 10)))
        images += n
        if checkpoint and ((step + 1) % checkpoint.every == 0 or step + 1 == steps):
            checkpoint.save(step + 1, parameters, optimizer, average)
        yield TrainingState(step + 1, loss.detach(), time.perf_counter() - began, images)
    if ema:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), average)


@dataclass
class Checkpoint:
    """Trainable tensors, optimizer moments and the step in one file."""

    path: Path
    every: int

    def save(
        self, step: int, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, average: Sequence[Tensor]
    ) -> None:
        numbered = {f"parameter.{i}": p for i, p in enumerate(parameters)}
        numbered |= {f"average.{i}": a for i, a in enumerate(average)}
        write_tensors(
            self.path, {"step": torch.tensor(step), **numbered, **with_prefix("adam", optimizer_tensors(optimizer))}
        )

    def load(
        self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, average: Iterable[Tensor]
    ) -> int:
        """Restore in place and return the steps done; 0 where there is no checkpoint yet, or a damaged one.

        Raises PipelineError for a checkpoint of another network.
        """
        if (tensors := read_tensors(self.path)) is None:
            return 0
        saved = {int(i): tensor.shape for i, tensor in without_prefix("parameter", tensors).items()}
        if saved != {i: p.shape for i, p in enumerate(parameters)}:
            raise PipelineError(f"{self.path} is a checkpoint of another network; remove it, or name another folder.")
        with torch.no_grad():
            for i, p in enumerate(parameters):
                p.copy_(tensors[f"parameter.{i}"])
            for i, a in enumerate(average):
                a.copy_(tensors[f"average.{i}"])
        restore_optimizer(optimizer, without_prefix("adam", tensors))
        return int(tensors["step"])
