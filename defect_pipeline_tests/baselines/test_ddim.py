from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from defect_pipeline.baselines.ddim import build_unet, sample_ddim, unconditional_loss
from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.diffusion.sampling import initial_noise
from defect_pipeline.diffusion.training import training_loop
from defect_pipeline.errors import PipelineError

SHAPE = (4, 8, 8)
SCHEDULERS = [
    DPMSolverMultistepScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False),
]


def one_latent() -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=("velocity", "noise"))
def test_a_perfect_answer_leads_to_the_image(scheduler):
    """Of a world of one image every noisy latent tells what was added; DDIM must then find that image, from any noise."""
    noising, z0 = Noising.of(scheduler), one_latent()

    def perfect(z: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        times = t.expand(len(z))
        a, b = noising.coefficients(times)
        return SimpleNamespace(sample=noising.target(z0, (z - a * z0) / b, times))

    found = sample_ddim(perfect, scheduler, initial_noise([0, 1], SHAPE, torch.device("cpu")), steps=5)
    assert torch.allclose(found, z0.expand_as(found), atol=1e-3)


def test_latents_depend_on_their_seed_alone():
    unet = build_unet(SHAPE[0], SHAPE[1], (8, 16), seed=0).eval()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    noise = initial_noise([4, 5, 6], SHAPE, torch.device("cpu"))
    together = sample_ddim(unet, SCHEDULERS[0], noise, steps=3, batch=2)
    alone = sample_ddim(unet, SCHEDULERS[0], noise[1:2], steps=3)
    assert together.shape == (3, *SHAPE) and torch.allclose(together[1:2], alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_a_training_of_one_latent_samples_near_it():
    z0, scheduler = one_latent(), SCHEDULERS[0]
    unet = build_unet(SHAPE[0], SHAPE[1], (8, 16), seed=0)
    loss_at = unconditional_loss(unet, Noising.of(scheduler), z0, batch=8)
    loop = training_loop(list(unet.parameters()), loss_at, steps=60, learning_rate=4e-3, seed=0, decay=0.3)
    losses = [state.loss.item() for state in loop]
    noise = initial_noise([0, 1], SHAPE, torch.device("cpu"))
    found = sample_ddim(unet.eval(), scheduler, noise, steps=10)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert (found - z0).square().mean() < 0.5 * (noise - z0).square().mean()


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(PipelineError, match="latents of 6 cells 2 times"):
        build_unet(4, 6, (8, 16, 32), seed=0)
