from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.diffusion.unet import GaussianDenoiser, SkipUNet

NOISING = Noising("v_prediction", DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod)


def smooth_latents(n: int, seed: int) -> torch.Tensor:
    """Two correlated channels, smooth over cells."""
    g = torch.Generator().manual_seed(seed)
    field = F.avg_pool2d(torch.randn(n, 1, 20, 20, generator=g), 5, stride=1) * 5
    return torch.cat([3 * field, field + 0.3 * torch.randn(n, 1, 16, 16, generator=g)], 1)


def test_the_linear_denoiser_is_the_least_squares_fit_at_every_noise_level():
    denoiser = GaussianDenoiser(2)
    denoiser.fit(smooth_latents(400, 0), NOISING.alphas_cumprod)
    z0, noise = smooth_latents(200, 1), torch.randn(200, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    for t in (100, 500, 900):
        times = torch.full((200,), t)
        zt, v = NOISING.noisy(z0, noise, times), NOISING.target(z0, noise, times)
        answer = denoiser(zt, times)[:, :, 2:-2, 2:-2]
        around = F.unfold(zt, 5).transpose(1, 2).reshape(-1, 50)
        target = v[:, :, 2:-2, 2:-2].permute(0, 2, 3, 1).reshape(-1, 2)
        best = (around @ torch.linalg.lstsq(around, target).solution - target).square().mean()
        ours = (answer - v[:, :, 2:-2, 2:-2]).square().mean()
        assert ours < 1.02 * best and ours < 0.9 * v.square().mean()


def test_an_image_is_filtered_as_by_one_factor_after_the_other():
    denoiser = GaussianDenoiser(2)
    denoiser.fit(smooth_latents(50, 0), NOISING.alphas_cumprod)
    zt, t = torch.randn(3, 2, 16, 9, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 500, 990])
    a2 = NOISING.alphas_cumprod[t].view(-1, 1, 1, 1)
    gain = (a2 * (1 - a2)).sqrt() / (a2 * denoiser.moments.view(1, -1, 1, 1) + 1 - a2)
    by_factors = denoiser.synthesise(denoiser.analyse(F.pad(zt, (2,) * 4, mode="replicate")) * gain)
    answer = denoiser(zt, t)
    assert torch.allclose(answer, by_factors, atol=1e-5)
    weights = denoiser.analyse.weight, denoiser.synthesise.weight
    for ours, theirs in zip(
        *(torch.autograd.grad(x.square().sum(), weights) for x in (answer, by_factors)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)


def test_a_channel_that_is_always_zero_stays_finite_in_half_precision():
    latents = smooth_latents(50, 0)
    latents[:, 1] = 0  # the chroma of a grey component
    denoiser = GaussianDenoiser(2)
    denoiser.fit(latents, NOISING.alphas_cumprod)
    stored = {name: tensor.half().float() for name, tensor in denoiser.state_dict().items()}
    denoiser.load_state_dict(stored)
    for t in (0, 1, 999):
        assert torch.isfinite(denoiser(latents, torch.full((50,), t))).all()


def test_a_skip_u_net_adds_the_denoiser_and_survives_saving(tmp_path: Path):
    torch.manual_seed(0)
    unet = SkipUNet(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    unet.linear.fit(smooth_latents(50, 0), NOISING.alphas_cumprod)
    zt, text, t = smooth_latents(3, 4), torch.randn(3, 5, 8), torch.tensor([10, 500, 990])
    with torch.no_grad():
        answer = unet(zt, t, text).sample
        assert torch.equal(unet(zt, t, text, return_dict=False)[0], answer)
        assert torch.allclose(unet(zt[1:2], 500, text[1:2]).sample, answer[1:2], atol=1e-5)
        unet.save_pretrained(tmp_path)
        assert torch.equal(SkipUNet.from_pretrained(tmp_path)(zt, t, text).sample, answer)
        linear = unet.linear(zt, t)
        unet.conv_out.weight.zero_(), unet.conv_out.bias.zero_()
        assert torch.allclose(unet(zt, t, text).sample, linear) and not torch.allclose(answer, linear)
