"""How a backbone noises its latents and what its U-Net predicts: read from its scheduler, so one loss serves all.

Stable Diffusion 1.5 predicts the noise of a variance-preserving chain of 1000 steps; the embedded backbone predicts the
velocity of a straight path (flow matching). Both are z_t = a_t z_0 + b_t noise with their own a, b and target.
"""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Generator, Tensor

STEPS = 1000


@dataclass(frozen=True)
class Noising:
    """`prediction` is diffusers' prediction_type: "epsilon", "v_prediction" or "flow_prediction".

    `alphas_cumprod` (1000,) belongs to the variance-preserving kinds and is None for flow matching.
    """

    prediction: str
    alphas_cumprod: Tensor | None = None

    @classmethod
    def of(cls, scheduler: SchedulerMixin) -> "Noising":
        """The forward process a diffusers scheduler was configured for."""
        if scheduler.config.prediction_type == "flow_prediction":
            return cls("flow_prediction")
        return cls(scheduler.config.prediction_type, DDPMScheduler.from_config(scheduler.config).alphas_cumprod)

    def times(self, n: int, generator: Generator) -> Tensor:
        """n training times (n,): uniform steps, or for flow matching logit-normal ones, denser where learning happens."""
        device = generator.device
        if self.alphas_cumprod is None:
            return torch.sigmoid(torch.randn(n, generator=generator, device=device)) * STEPS
        return torch.randint(0, STEPS, (n,), generator=generator, device=device)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a_t, b_t), each (n, 1, 1, 1), of z_t = a_t z_0 + b_t noise."""
        if self.alphas_cumprod is None:
            b = (t / STEPS).view(-1, 1, 1, 1)
            return 1 - b, b
        alpha = self.alphas_cumprod.to(t.device)[t.long()].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def noisy(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t for latents (n, C, h, w)."""
        a, b = self.coefficients(t)
        return a * z0 + b * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the U-Net should answer at (z_t, t)."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow_prediction":
            return noise - z0
        a, b = self.coefficients(t)
        return a * noise - b * z0
