import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from defect_pipeline.diffusion.noising import Noising


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, 8, 8, generator=g), torch.randn(5, 4, 8, 8, generator=g)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_agrees_with_diffusers_ddpm(prediction: str):
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction
    )
    z0, noise = tensors()
    t = torch.tensor([0, 1, 500, 998, 999])
    ours = Noising.of(scheduler)
    assert torch.allclose(ours.noisy(z0, noise, t), scheduler.add_noise(z0, noise, t), atol=1e-6)
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(z0, noise, t)
    assert torch.allclose(ours.target(z0, noise, t), expected, atol=1e-6)


def test_flow_matching_agrees_with_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler()
    z0, noise = tensors()
    t = scheduler.timesteps[[0, 10, 500, 900, 999]]
    ours = Noising.of(DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True))
    assert torch.allclose(ours.noisy(z0, noise, t), scheduler.scale_noise(z0, t, noise), atol=1e-5)
    zt, v = ours.noisy(z0, noise, t), ours.target(z0, noise, t)
    _, b = ours.coefficients(t)
    assert torch.allclose(zt - b * v, z0, atol=1e-5)  # stepping back along the velocity lands on the clean latent


def test_times_are_in_range_and_follow_the_seed():
    for noising in (Noising("flow_prediction"), Noising("epsilon", torch.linspace(1, 0, 1000))):
        first, again = (noising.times(500, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.min() >= 0 and first.max() < 1000 and first.float().std() > 100
