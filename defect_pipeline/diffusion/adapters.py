"""What is trained, as losses for the one loop: concept (DreamBooth) and condition (hypernetwork) of System A, the token
and the low-rank adapters of System B."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from defect_pipeline.diffusion.backbone import Backbone, embed
from defect_pipeline.diffusion.sampling import control_residuals
from defect_pipeline.diffusion.training import denoising_loss
from defect_pipeline.diffusion.windows import cut, draw_corners, shows_windows

LossAt = Callable[[int, Generator], tuple[Tensor, int]]


@dataclass(frozen=True)
class Examples:
    """Training crops, all of one size, wholly in memory: a component's data set is one tensor.

    latents (n, C, h, w); drivers (n, 3, H, W) uint8; masks (n, h, w) bool at latent size; prompts: n strings.
    """

    latents: Tensor
    drivers: Tensor
    masks: Tensor
    prompts: list[str]

    def draw(self, batch: int, window: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(picks, latents, drivers in [0, 1], masks) of ``batch`` random crops or, with a ``window`` above 0, of as
        many pixels in windows of that side around their defects."""
        factor = self.drivers.shape[-1] // self.latents.shape[-1]
        picks, corners, side = _draw(self.masks, batch, window // factor, generator)
        drivers = cut(self.drivers[picks], corners * factor, side * factor).float() / 255
        return picks, cut(self.latents[picks], corners, side), drivers, cut(self.masks[picks], corners, side)

    @classmethod
    def of(
        cls, backbone: Backbone, images: np.ndarray, drivers: np.ndarray, masks: np.ndarray, prompts: list[str]
    ) -> "Examples":
        """From images and drivers (n, H, W, 3) uint8 and masks (n, H, W) bool; images are encoded once and for all."""
        painted = torch.from_numpy(drivers).permute(0, 3, 1, 2).to(backbone.device)
        return cls(backbone.encode_pixels(images), painted, backbone.at_latent_size(masks) > 0, prompts)


def concept_loss(
    backbone: Backbone,
    examples: Examples,
    prior: Tensor,
    prompt: str,
    prior_prompt: str,
    *,
    prior_weight: float,
    batch: int,
    prior_batch: int,
    window: int = 0,
) -> LossAt:
    """DreamBooth with class-prior preservation (paper A §3.1): instance loss + prior_weight x prior loss.

    ``examples`` say "an image of a [V]"; ``prior`` (m, C, h, w) are latents which the untouched model sampled for
    ``prior_prompt``. A step sees ``batch`` of the first and ``prior_batch`` of the second, each with a mean of its own,
    so that neither term depends on the other's size. With ``window`` > 0, most steps see as many pixels in windows
    of that many px (see `windows`).
    """
    instance_text, prior_text = backbone.embed([prompt, prior_prompt])  # (L, D) each
    noising = backbone.noising
    anywhere = examples.masks.new_zeros(len(prior), *prior.shape[2:])

    def loss_at(step: int, generator: Generator) -> tuple[Tensor, int]:
        instances = examples.draw(batch, window if shows_windows(step) else 0, generator)[1]
        picks, corners, side = _draw(anywhere, prior_batch, instances.shape[-1], generator)
        z0 = torch.cat([instances, cut(prior[picks], corners, side)])
        text = torch.stack([instance_text] * len(instances) + [prior_text] * (len(z0) - len(instances)))
        t, noise = noising.times(len(z0), generator), _noise_like(z0, generator)
        with backbone.autocast():
            loss = denoising_loss(backbone.unet, noising, z0, text, t, noise)  # (len(z0), h, w)
        return prior_preservation(loss, len(instances), prior_weight), len(z0)

    return loss_at


def prior_preservation(loss: Tensor, instances: int, prior_weight: float) -> Tensor:
    """mean over the first ``instances`` images + prior_weight x mean over the rest, of losses (n, h, w)."""
    return loss[:instances].mean() + prior_weight * loss[instances:].mean()


def hypernetwork_loss(
    backbone: Backbone,
    hypernetwork: nn.Module,
    examples: Examples,
    *,
    batch: int,
    mask_weight: float,
    text_dropout: float,
    window: int = 0,
) -> LossAt:
    """The condition (paper A §3.2): the frozen concept model, steered by a driver, denoises the driver's own image.

    ``mask_weight`` 1 is the paper's loss; more counts a latent pixel under the mask that many times, normalised so that
    the scale of the loss stays. ``text_dropout``: share of prompts replaced by "", for guidance. ``window`` as in
    `concept_loss`.
    """
    known = {prompt: backbone.embed([prompt])[0] for prompt in {*examples.prompts, ""}}
    text = torch.stack([known[prompt] for prompt in examples.prompts])  # (n, L, D)
    noising = backbone.noising

    def loss_at(step: int, generator: Generator) -> tuple[Tensor, int]:
        picks, z0, drivers, masks = examples.draw(batch, window if shows_windows(step) else 0, generator)
        words, n = text[picks], len(picks)
        t, noise = noising.times(n, generator), _noise_like(z0, generator)
        if text_dropout:
            dropped = torch.rand(n, 1, 1, generator=generator, device=generator.device) < text_dropout
            words = torch.where(dropped, known[""], words)
        residuals = control_residuals(hypernetwork, drivers)
        with backbone.autocast():
            loss = denoising_loss(backbone.unet, noising, z0, words, t, noise, residuals)  # (n, h, w)
        weight = 1 + (mask_weight - 1) * masks.float()
        return (loss * weight).sum() / weight.sum(), n

    return loss_at


def prompted_loss(backbone: Backbone, latents: Tensor, prompt: str, *, batch: int) -> LossAt:
    """Denoising of latents (n, C, h, w) under one prompt, through text encoder and U-Net (paper B, both stages).

    What learns is decided by what has a gradient: the prompt's token (`learnable_token`) or adapters (`add_lora`).
    """
    noising = backbone.noising

    def loss_at(step: int, generator: Generator) -> tuple[Tensor, int]:
        picks = torch.randint(len(latents), (batch,), generator=generator, device=generator.device)
        z0 = latents[picks]
        t, noise = noising.times(batch, generator), _noise_like(z0, generator)
        text = embed(backbone.tokenizer, backbone.text_encoder, [prompt]).expand(batch, -1, -1)
        with backbone.autocast():
            loss = denoising_loss(backbone.unet, noising, z0, text, t, noise)  # (batch, h, w)
        return loss.mean(), batch

    return loss_at


def _draw(masks: Tensor, batch: int, side: int, generator: Generator) -> tuple[Tensor, Tensor, int]:
    """(picks, corners, side) of windows over masks (n, h, w) that hold as many cells as ``batch`` whole ones; a side of
    0 stands for theirs."""
    side = side or masks.shape[-1]
    n = batch * (masks.shape[-1] // side) ** 2
    picks = torch.randint(len(masks), (n,), generator=generator, device=generator.device)
    return picks, draw_corners(masks[picks], side, generator), side


def _noise_like(z0: Tensor, generator: Generator) -> Tensor:
    return torch.randn(z0.shape, generator=generator, device=z0.device)
