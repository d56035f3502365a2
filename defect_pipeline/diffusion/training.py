"""One loss and one training loop for every adapter.

DreamBooth, the hypernetwork, textual inversion and LoRA differ only in which parameters train and in what a batch
holds. The loop is a generator: it yields its state after each step, and logging, checkpoints and previews stay outside.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from defect_pipeline.checkpoints import (
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
    with_prefix,
    without_prefix,
)
from defect_pipeline.diffusion.noising import Noising


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
    parameters: Sequence[Tensor]
    average: Sequence[Tensor]  # of the parameters; empty where none is kept
    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, their average, optimizer moments and step, as references: to be written at once."""
        moments = with_prefix("adam", optimizer_tensors(self.optimizer))
        return {"step": torch.tensor(self.step), **_numbered(self.parameters, self.average), **moments}


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
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    warmup: int = 0,
    decay: float = 0.0,
    ema: float = 0.0,
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[TrainingState]:
    """Train ``parameters`` with AdamW for ``steps`` steps and yield a `TrainingState` after each.

    ``loss_at(step, generator)`` gives a scalar loss and the number of images behind it. ``betas``, ``eps`` and
    ``weight_decay`` are AdamW's, ``clip`` is the largest norm of the gradient. The rate warms up linearly over
    ``warmup`` steps and falls linearly to zero over the last ``decay`` share. With ``ema`` > 0 an exponential moving
    average is kept and left in the parameters at the end. A training that goes on from ``resume``, an earlier
    `TrainingState.state_dict`, equals an uninterrupted one. Raises ForeignCheckpointError for that of another network.
    """
    device = parameters[0].device
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
    )
    average = [p.detach().clone() for p in parameters] if ema else []
    start = _restore(parameters, average, optimizer, resume) if resume else 0
    began, images = time.perf_counter(), 0
    for step in range(start, steps):
        rate = learning_rate * min(1.0, (step + 1) / max(warmup, 1), (steps - step) / max(decay * steps, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, n = loss_at(step, step_generator(seed, step, device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if ema:  # a young average follows faster, so that short trainings use it too
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(ema, (step + 1) / (step + 10)))
        images += n
        seconds = time.perf_counter() - began
        yield TrainingState(step + 1, loss.detach(), seconds, images, parameters, average, optimizer)
    if ema:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), average)


def _numbered(parameters: Sequence[Tensor], average: Sequence[Tensor]) -> dict[str, Tensor]:
    """All of them by name."""
    kept = {"parameter": parameters, "average": average}
    return {f"{name}.{i}": tensor for name, tensors in kept.items() for i, tensor in enumerate(tensors)}


def _restore(
    parameters: Sequence[Tensor],
    average: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Tensor],
) -> int:
    """Restore in place and return the steps done."""
    saved = {name: state[name] for name in state if name.startswith(("parameter.", "average."))}
    restore_tensors(_numbered(parameters, average), saved)
    restore_optimizer(optimizer, without_prefix("adam", state))
    return int(state["step"])
