"""The embedded autoencoder: a linear patch transform, exact, tiny and closed-form.

A briefly trained convolutional autoencoder loses the fine texture that makes metal look like metal. Principal
components of 4x4 patches keep it: luma and chroma are projected apart, so a grey image has chroma latents of exactly
zero, and the decoder predicts every patch from its 3x3 neighbourhood of latents by least squares, which hides the grid.
"""

from collections.abc import Iterable
from typing import Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

RGB_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


class LinearPatchAutoencoder(ModelMixin, ConfigMixin):
    """AutoencoderKL's interface over two linear maps; images (B, 3, H, W) in [-1, 1], latents (B, C, H/4, W/4)."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 12,
        luma_channels: int = 10,
        patch: int = 4,
        scaling_factor: float = 1.0,
        block_out_channels: tuple[int, ...] = (1, 1, 1),  # its length tells diffusers the patch: 2 ** (3 - 1) = 4
    ) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, latent_channels, patch, stride=patch)
        self.decoder = nn.Conv2d(latent_channels, 3 * patch * patch, 3, padding=1, padding_mode="replicate")

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        mean = self.encoder(x)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, -30.0)], dim=1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: object = None) -> DecoderOutput | tuple[Tensor]:
        """The sample for a latent; ``generator`` is diffusers' signature, a linear map draws nothing."""
        image = F.pixel_shuffle(self.decoder(z), self.config.patch)
        return DecoderOutput(sample=image) if return_dict else (image,)

    @classmethod
    @torch.no_grad()
    def fit(cls, batches: Iterable[Tensor], luma_channels: int = 10, chroma_channels: int = 2, patch: int = 4) -> Self:
        """Fit both maps to images (B, 3, H, W) in [-1, 1]: PCA for the encoder, ridge regression for the decoder.

        Component k is divided by std_k ** 0.6, which leaves coarse structure the louder part of a latent, and all of
        them by one factor that makes the mean variance 1, as the noise schedule expects.
        """
        images = torch.cat(list(batches)).double()
        ycc = torch.einsum("ij,bjhw->bihw", RGB_TO_YCC.double(), images)
        patches = F.unfold(ycc, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)  # (N, 3*p*p)
        mean = patches.mean(0).reshape(3, -1).mean(1).repeat_interleave(patch * patch)
        mean[patch * patch :] = 0  # a grey image has no chroma, whatever the training images had
        n_luma = patch * patch
        basis = torch.zeros(luma_channels + chroma_channels, 3 * n_luma, dtype=torch.double)
        basis[:luma_channels, :n_luma] = _principal(patches[:, :n_luma] - mean[:n_luma], luma_channels)
        basis[luma_channels:, n_luma:] = _principal(patches[:, n_luma:], chroma_channels)
        scale = ((patches - mean) @ basis.T).std(0) ** -0.6
        scale = scale / (((patches - mean) @ basis.T) * scale).var(0).mean().sqrt()

        model = cls(luma_channels + chroma_channels, luma_channels, patch, block_out_channels=(1,) * patch.bit_length())
        encode = (basis * scale[:, None]).reshape(-1, 3, patch, patch)  # on YCC
        to_ycc = RGB_TO_YCC.double()
        weight, bias = torch.einsum("kchw,cj->kjhw", encode, to_ycc), -(basis * scale[:, None]) @ mean
        model.encoder.load_state_dict({"weight": weight, "bias": bias})
        model._fit_decoder(images.float(), ycc, luma_channels)
        return model

    def _fit_decoder(self, images: Tensor, ycc: Tensor, luma_channels: int) -> None:
        patch = self.config.patch
        z = F.pad(self.encoder(images), (1, 1, 1, 1), mode="replicate").double()  # (B, C, h+2, w+2)
        neighbours = F.unfold(z, 3).transpose(1, 2).reshape(-1, z.shape[1], 9)  # (N, C, 9)
        targets = F.unfold(ycc, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
        pixels = patch * patch
        weight = torch.zeros(3 * pixels, z.shape[1], 9, dtype=torch.double)
        bias = torch.zeros(3 * pixels, dtype=torch.double)
        for channels, out in (
            (slice(0, luma_channels), slice(0, pixels)),
            (slice(luma_channels, None), slice(pixels, None)),
        ):
            x = neighbours[:, channels].flatten(1)
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
            gram = x.T @ x
            gram[:-1, :-1] += 1e-4 * gram.diagonal()[:-1].mean() * torch.eye(len(gram) - 1, dtype=x.dtype)
            solution = torch.linalg.solve(gram, x.T @ targets[:, out]).T
            weight[out, channels] = solution[:, :-1].reshape(solution.shape[0], -1, 9)
            bias[out] = solution[:, -1] if out.start == 0 else 0.0
        to_rgb = torch.linalg.inv(RGB_TO_YCC.double())
        weight = torch.einsum("ij,jpck->ipck", to_rgb, weight.reshape(3, pixels, -1, 9))
        bias = (to_rgb @ bias.reshape(3, pixels)).flatten()
        self.decoder.load_state_dict({"weight": weight.reshape(3 * pixels, -1, 3, 3), "bias": bias})


def _principal(patches: Tensor, components: int) -> Tensor:
    """The leading eigenvectors (components, D) of centred rows."""
    _, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return vectors.T.flip(0)[:components]
