"""Diffusion from scratch: an unconditional U-Net that sees one class alone, sampled with DDIM (Song et al., 2021).

It works in the latents of a backbone's autoencoder and noises them as the backbone does, so that it differs from the
adapted backbone in what it knows beforehand: nothing.
"""

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, SchedulerMixin, UNet2DModel
from torch import Generator, Tensor, nn

from defect_pipeline.diffusion.adapters import LossAt
from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.diffusion.training import denoising_loss
from defect_pipeline.errors import PipelineError


def build_unet(channels: int, side: int, widths: Sequence[int], *, seed: int) -> UNet2DModel:
    """An untrained U-Net for latents (n, channels, side, side) with a level for each of ``widths``, attention at the last.

    Raises PipelineError where the side cannot be halved from level to level.
    """
    plain = len(widths) - 1
    if side % 2**plain:
        raise PipelineError(
            f"A U-Net of {len(widths)} levels halves latents of {side} cells {plain} times, which does not come out even: "
            "name fewer widths for it in the profile."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=tuple(widths),
            layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        )  # fmt: skip
    nn.init.zeros_(unet.conv_out.weight)  # small trainings begin at the mean answer, not at noise
    return unet.to(memory_format=torch.channels_last)


def unconditional_loss(unet: nn.Module, noising: Noising, latents: Tensor, *, batch: int) -> LossAt:
    """The one denoising loss on ``batch`` random latents of (n, C, h, w), without any text."""

    def loss_at(step: int, generator: Generator) -> tuple[Tensor, int]:
        picks = torch.randint(len(latents), (batch,), generator=generator, device=generator.device)
        t = noising.times(batch, generator)
        noise = torch.randn(batch, *latents.shape[1:], generator=generator, device=generator.device)
        return denoising_loss(unet, noising, latents[picks], None, t, noise).mean(), batch

    return loss_at


@torch.no_grad()
def sample_ddim(unet: nn.Module, scheduler: SchedulerMixin, noise: Tensor, *, steps: int, batch: int = 64) -> Tensor:
    """Latents like ``noise`` (n, C, h, w), ``batch`` at a time, in ``steps`` deterministic steps (eta = 0) of the
    process that ``scheduler``, any of diffusers, describes."""
    ddim = DDIMScheduler.from_config(
        scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    ddim.set_timesteps(steps, device=noise.device)
    parts = []
    for z in noise.split(batch):
        for t in ddim.timesteps:
            z = ddim.step(unet(z, t).sample, t, z).prev_sample
        parts.append(z)
    return torch.cat(parts)
