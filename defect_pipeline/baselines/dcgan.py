"""A deep convolutional GAN (Radford, Metz and Chintala, 2016) for square images: networks, training loop, images.

Strided convolutions in place of pooling, batch normalisation in both networks except at the generator's output and the
discriminator's input, weights from N(0, 0.02), Adam with a momentum of 0.5. The networks are as deep as the images ask.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from defect_pipeline.checkpoints import (
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
    with_prefix,
    without_prefix,
)
from defect_pipeline.diffusion.sampling import initial_noise
from defect_pipeline.diffusion.training import step_generator
from defect_pipeline.errors import PipelineError
from defect_pipeline.resumable import Curve, Progress, run_training, silent

NOISE = (100, 1, 1)  # of each image
SMALLEST = 4  # px, the side from which the generator begins
CHECKPOINTS = 20  # of a training


@dataclass(frozen=True)
class DCGAN:
    """Both networks: noise (n, 100, 1, 1) to images (n, 3, S, S) in [-1, 1], and images to logits (n,) of being real."""

    generator: nn.Sequential
    discriminator: nn.Sequential

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device


def build_dcgan(size: int, *, width: int, seed: int, device: str = "cpu") -> DCGAN:
    """Untrained networks for images of ``size`` px, with ``width`` channels next to the image and twice as many at each
    halving; weights from ``seed``. Raises PipelineError for a size that cannot be halved."""
    side, halvings = size, 0
    while side % 2 == 0 and side // 2 >= SMALLEST:
        side, halvings = side // 2, halvings + 1
    if not halvings:
        raise PipelineError(f"A DCGAN of {size} px cannot be built: choose an even size of {2 * SMALLEST} px or more.")
    channels = [width * 2**i for i in range(halvings)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        gan = DCGAN(_generator(side, channels[::-1]), _discriminator(side, channels))
        for module in (*gan.generator, *gan.discriminator):
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
    for network in (gan.generator, gan.discriminator):
        network.to(device).to(memory_format=torch.channels_last)
    return gan


def _generator(side: int, channels: Sequence[int]) -> nn.Sequential:
    layers = [nn.ConvTranspose2d(NOISE[0], channels[0], side, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()]
    for wide, narrow in pairwise(channels):
        layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1), nn.Tanh())


def _discriminator(side: int, channels: Sequence[int]) -> nn.Sequential:
    layers = [nn.Conv2d(3, channels[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for narrow, wide in pairwise(channels):
        layers += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, side), nn.Flatten(0))


@dataclass
class GANTraining:
    """What a step leaves behind; the losses are tensors so that reading them is the caller's choice of sync point."""

    step: int  # steps done
    generator_loss: Tensor
    discriminator_loss: Tensor
    gan: DCGAN
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]  # in the order of DCGAN's networks

    @property
    def loss(self) -> Tensor:
        """The generator's, which is what a training is followed by."""
        return self.generator_loss

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimizers and step, as references: to be written at once."""
        tensors = {"step": torch.tensor(self.step)}
        for i, network in enumerate((self.gan.generator, self.gan.discriminator)):
            tensors |= with_prefix(f"network.{i}", network.state_dict())
            tensors |= with_prefix(f"optimizer.{i}", optimizer_tensors(self.optimizers[i]))
        return tensors


def train_dcgan(
    gan: DCGAN,
    images: np.ndarray,
    *,
    steps: int,
    seed: int,
    batch: int = 128,
    learning_rate: float = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[GANTraining]:
    """Train in place on images (n, S, S, 3) uint8 and yield after each step: one of the discriminator on a real and a
    generated batch, then one of the generator on the same generated batch.

    Randomness comes from ``seed`` and the step, so a run that goes on from a ``state_dict`` equals an uninterrupted one.
    """
    device, generator, discriminator = gan.device, gan.generator.train(), gan.discriminator.train()
    known = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # (n, 3, S, S)
    learn_to_paint, learn_to_tell = (
        torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas) for network in (generator, discriminator)
    )
    optimizers = learn_to_paint, learn_to_tell
    start = _restore((generator, discriminator), optimizers, resume) if resume else 0
    for step in range(start, steps):
        real, noise = _drawn(known, batch, step_generator(seed, step, device))
        made = generator(noise)  # (batch, 3, S, S)
        discriminating = _taken_for(discriminator(real), True) + _taken_for(discriminator(made.detach()), False)
        _descend(learn_to_tell, discriminating)
        fooled = _taken_for(discriminator(made), True)
        _descend(learn_to_paint, fooled)
        yield GANTraining(step + 1, fooled.detach(), discriminating.detach(), gan, optimizers)


def learn_dcgan(
    gan: DCGAN,
    images: np.ndarray,
    *,
    steps: int,
    seed: int,
    batch: int,
    learning_rate: float,
    betas: tuple[float, float],
    checkpoint: Path,
    progress: Progress = silent,
) -> Curve:
    """Train in place as `train_dcgan` does, with checkpoints; the generator's loss since this process began."""

    def loop(left: Mapping[str, Tensor] | None) -> Iterator[GANTraining]:
        return train_dcgan(
            gan, images, steps=steps, seed=seed, batch=batch, learning_rate=learning_rate, betas=betas, resume=left
        )

    return run_training(loop, checkpoint, steps=steps, every=max(10, steps // CHECKPOINTS), progress=progress)


def paint(gan: DCGAN, seeds: Sequence[int], *, batch: int = 64) -> np.ndarray:
    """Images (n, S, S, 3) uint8, one for each seed whatever the batch: normalised by what was seen in training."""
    gan.generator.eval()
    with torch.inference_mode():
        noise = initial_noise(seeds, NOISE, gan.device)
        parts = [
            (gan.generator(z) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu() for z in noise.split(batch)
        ]
    return torch.cat(parts).numpy()


def _drawn(images: Tensor, batch: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A batch of real images in [-1, 1] and as much noise."""
    picks = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
    noise = torch.randn(batch, *NOISE, generator=generator, device=generator.device)
    return images[picks].float() / 127.5 - 1, noise


def _taken_for(logits: Tensor, real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _restore(
    networks: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], state: Mapping[str, Tensor]
) -> int:
    for i, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
        restore_tensors(network.state_dict(), without_prefix(f"network.{i}", state))
        restore_optimizer(optimizer, without_prefix(f"optimizer.{i}", state))
    return int(state["step"])
