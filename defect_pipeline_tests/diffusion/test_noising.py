import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

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


def test_both_predictions_lead_back_to_the_clean_latent():
    z0, noise = tensors()
    t = torch.tensor([10, 200, 500, 800, 990])
    for prediction in ("epsilon", "v_prediction"):
        ours = Noising.of(DPMSolverMultistepScheduler(prediction_type=prediction, beta_schedule="squaredcos_cap_v2"))
        zt, answer, (a, b) = ours.noisy(z0, noise, t), ours.target(z0, noise, t), ours.coefficients(t)
        back = (zt - b * answer) / a if prediction == "epsilon" else a * zt - b * answer
        assert torch.allclose(back, z0, atol=1e-3)


def test_other_predictions_are_refused():
    with pytest.raises(ValueError, match="flow_prediction"):
        Noising.of(DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True))


def test_times_are_in_range_and_follow_the_seed():
    noising = Noising("epsilon", torch.linspace(1, 0, 1000))
    first, again = (noising.times(500, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.min() >= 0 and first.max() < 1000 and first.float().std() > 100
