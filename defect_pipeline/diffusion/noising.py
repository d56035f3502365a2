"""How a backbone noises its latents and what its U-Net predicts: read from its scheduler, so one loss serves all.

The forward process is variance-preserving, z_t = a_t z_0 + b_t noise with a_t² + b_t² = 1 over 1000 steps. Stable
Diffusion 1.5 predicts the noise; the embedded backbone predicts the velocity a_t noise - b_t z_0, which asks a small
network to copy neither the noise (where there is little else) nor the image (where there is little noise).
"""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Generator, Tensor

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Noising:
    """`prediction` is one of PREDICTIONS, diffusers' prediction_type; `alphas_cumprod` (T,) are the a_t²."""

    prediction: str
    alphas_cumprod: Tensor

    @classmethod
    def of(cls, scheduler: SchedulerMixin) -> "Noising":
        """The forward process of a diffusers scheduler. Raises ValueError for another prediction_type."""
        prediction = scheduler.config.prediction_type
        if prediction not in PREDICTIONS:
            raise ValueError(f"the scheduler predicts {prediction!r}; only {' and '.join(PREDICTIONS)} are supported")
        return cls(prediction, DDPMScheduler.from_config(scheduler.config).alphas_cumprod)

    def times(self, n: int, generator: Generator) -> Tensor:
        """n training times (n,), uniform over the steps."""
        return torch.randint(0, len(self.alphas_cumprod), (n,), generator=generator, device=generator.device)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a_t, b_t), each (n, 1, 1, 1)."""
        alpha = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def noisy(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t for latents (n, C, h, w)."""
        a, b = self.coefficients(t)
        return a * z0 + b * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the U-Net should answer at (z_t, t)."""
        a, b = self.coefficients(t)
        return noise if self.prediction == "epsilon" else a * noise - b * z0
