"""The embedded U-Net: diffusers' own beside a closed-form linear denoiser, so that it learns only what is not linear.

A small U-Net spends thousands of steps on relearning that neighbouring patches are alike; for a Gaussian process of
known covariance the best velocity estimate is a linear filter, known for every noise level at once.
"""

from functools import wraps
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

REACH = 5  # latent cells on a side of the neighbourhood


class GaussianDenoiser(nn.Module):
    """E[v | z_t on a 5x5 neighbourhood] for latents with the second moments of the training latents' neighbourhoods.

    With C = Q diag(λ) Qᵀ those moments, and I_c, C_c their rows that belong to the central cell, this is
    a b (I_c - C_c) Q diag(1 / (a² λ + b²)) Qᵀ applied to the neighbourhood, with the noising's coefficients a, b at t. The
    factors are multiplied first: of one image they are one filter of C x C x 5 x 5, a fraction of the work of each by itself.
    """

    moments: Tensor
    alphas_cumprod: Tensor

    def __init__(self, channels: int, timesteps: int = 1000) -> None:
        super().__init__()
        size = channels * REACH**2
        self.analyse = nn.Conv2d(channels, size, REACH, bias=False)  # Qᵀ
        self.synthesise = nn.Conv2d(size, channels, 1, bias=False)  # (I_c - C_c) Q
        self.register_buffer("moments", torch.ones(size))  # λ
        self.register_buffer("alphas_cumprod", torch.ones(timesteps))

    @torch.no_grad()
    def fit(self, latents: Tensor, alphas_cumprod: Tensor) -> None:
        """To latents (n, C, h, w) of clean images and the noising's a_t² (T,)."""
        channels = latents.shape[1]
        around = F.unfold(latents.double(), REACH).transpose(1, 2).reshape(-1, channels * REACH**2)  # channel-major
        second = around.T @ around / len(around)
        moments, vectors = torch.linalg.eigh(second)
        centre = torch.arange(channels) * REACH**2 + REACH**2 // 2
        self.analyse.weight.copy_(vectors.T.reshape(-1, channels, REACH, REACH))
        self.synthesise.weight.copy_((vectors[centre] - second[centre] @ vectors)[..., None, None])
        self.moments.copy_(moments.clamp(min=0))
        self.alphas_cumprod.copy_(alphas_cumprod)

    def forward(self, zt: Tensor, t: Tensor) -> Tensor:
        n, channels, height, width = zt.shape
        a2 = self.alphas_cumprod[t.long()].view(-1, 1, 1)
        b2 = (1 - a2).clamp(min=1e-5)  # half precision rounds the first steps to no noise at all
        gain = (a2 * b2).sqrt() / (a2 * self.moments + b2)  # (n, 1, 25 C)
        filters = (self.synthesise.weight.flatten(1) * gain) @ self.analyse.weight.flatten(1)  # (n, C, 25 C)
        around = F.pad(zt, (REACH // 2,) * 4, mode="replicate").reshape(1, n * channels, height + REACH - 1, -1)
        answer = F.conv2d(around, filters.reshape(n * channels, channels, REACH, REACH), groups=n)
        return answer.view(n, channels, height, width)


class SkipUNet(UNet2DConditionModel):
    """UNet2DConditionModel plus a `GaussianDenoiser`, for v_prediction. Same configuration, same calls."""

    # diffusers reads the configuration's names from the signature; mypy knows no wrapped constructor
    @wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, **configuration: Any) -> None:
        super().__init__(**configuration)
        self.linear = GaussianDenoiser(self.config.in_channels)

    def forward(self, sample: Tensor, timestep: Tensor | float, *inputs: Any, **steering: Any) -> Any:
        output = super().forward(sample, timestep, *inputs, **steering)
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        skip = self.linear(sample, t)
        if isinstance(output, tuple):
            return (output[0] + skip, *output[1:])
        output.sample = output.sample + skip
        return output
