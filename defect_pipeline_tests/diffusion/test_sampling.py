from functools import partialmethod
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from torch import nn
from torch._dynamo.utils import counters

from defect_pipeline.diffusion.adapters import prompted_loss
from defect_pipeline.diffusion.backbone import Backbone, load_backbone
from defect_pipeline.diffusion.lora import add_lora
from defect_pipeline.diffusion.sampling import control_residuals, initial_noise, sample, sample_images
from defect_pipeline.diffusion.training import training_loop


def draw(backbone: Backbone, **options) -> torch.Tensor:
    shape = (backbone.unet.config.in_channels, 8, 8)
    text, noise = backbone.embed(["a part"] * 2), initial_noise([1, 2], shape, backbone.device)
    return sample(backbone, text, backbone.embed([""]), noise, **{"steps": 6, "guidance": 1.0, **options})


def steered(backbone: Backbone) -> tuple[ControlNetModel, torch.Tensor]:
    """A hypernetwork that has an effect, and two drivers."""
    hypernetwork = backbone.new_hypernetwork("zero").eval()
    torch.nn.init.normal_(hypernetwork.controlnet_mid_block.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return hypernetwork, torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=["tiny_backbone", "tiny_stable_diffusion"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.getfixturevalue(request.param))


def test_strength_1_forgets_the_source_and_0_returns_it(backbone: Backbone):
    source = torch.randn(2, backbone.unet.config.in_channels, 8, 8)
    assert torch.equal(draw(backbone, source=source, strength=1.0), draw(backbone))
    assert torch.equal(draw(backbone, source=source, strength=0.0), source)


def test_less_strength_stays_nearer_to_the_source(backbone: Backbone):
    source = torch.randn(2, backbone.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    distances = [(draw(backbone, source=source, strength=s) - source).square().mean().item() for s in (0.05, 0.3, 0.9)]
    assert distances == sorted(distances) and distances[0] < 0.1 * distances[-1]


def test_all_steps_lie_inside_the_strength(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    forward = backbone.unet.forward
    monkeypatch.setattr(
        backbone.unet, "forward", lambda z, t, *a, **k: (seen.append(int(t[0])), forward(z, t, *a, **k))[1]
    )
    draw(backbone, source=torch.zeros(2, backbone.unet.config.in_channels, 8, 8), strength=0.4)
    assert len(seen) == 6 and seen == sorted(seen, reverse=True) and seen[0] == 399


def test_lower_precision_is_used_and_gives_nearly_the_same_image(tiny_backbone: Path):
    exact, rounded = (draw(load_backbone(tiny_backbone, precision=p)) for p in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    assert (exact - rounded).square().mean() < 0.01 * exact.square().mean()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_map_of_strengths_keeps_the_source_cell_by_cell(tiny_backbone: Path, guidance: float):
    backbone = load_backbone(tiny_backbone)
    source = 5 * torch.randn(2, backbone.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    strengths = torch.full((2, 8, 8), 0.2)
    strengths[:, :, 4:] = 1.0
    drawn = draw(backbone, source=source, strength=strengths, guidance=guidance)
    error = (drawn - source).square().mean(1)
    assert error[:, :, :3].mean() < 0.1 * error[:, :, 5:].mean()
    strengths[:, :, :4] = 0.0
    kept = draw(backbone, source=source, strength=strengths, guidance=guidance)
    assert torch.equal(kept[..., :4], source[..., :4]) and not torch.equal(kept[..., 4:], source[..., 4:])
    everything = draw(backbone, source=source, strength=torch.ones(2, 8, 8), guidance=guidance)
    assert torch.equal(everything, draw(backbone, guidance=guidance))


def test_a_map_of_one_strength_is_that_strength(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    source = torch.randn(2, backbone.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    flat = draw(backbone, source=source, strength=torch.full((2, 8, 8), 0.4))
    assert torch.equal(flat, draw(backbone, source=source, strength=0.4))


def test_guidance_away_from_a_driver_goes_beyond_what_the_driver_does(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    hypernetwork, drivers = steered(backbone)

    def painted(drivers: torch.Tensor, guidance: float, **options) -> torch.Tensor:
        return sample_images(
            backbone, ["a part"] * 2, [1, 2], 64, steps=1, guidance=guidance, batch=2,
            hypernetwork=hypernetwork, drivers=drivers, **options,
        )  # fmt: skip

    plain, defective = painted(torch.zeros_like(drivers), 1.0), painted(drivers, 1.0)
    without = ("a part", torch.zeros_like(drivers))
    assert torch.allclose(painted(drivers, 3.0, without=without), plain + 3 * (defective - plain), atol=1e-3)
    assert torch.equal(painted(drivers, 1.0, without=without), defective)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_drivers_are_embedded_once_and_steer_as_they_do_at_every_step(tiny_backbone: Path, guidance: float):
    backbone = load_backbone(tiny_backbone)
    hypernetwork, drivers = steered(backbone)

    def anew(zt: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> dict:
        down, mid = hypernetwork(zt, t, text, drivers.repeat(len(zt) // 2, 1, 1, 1), return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    expected = draw(backbone, guidance=guidance, residuals=anew)
    embedded: list[int] = []
    hypernetwork.controlnet_cond_embedding.register_forward_hook(lambda _, asked, __: embedded.append(len(asked[0])))
    answer = draw(backbone, guidance=guidance, residuals=control_residuals(hypernetwork, drivers))
    assert embedded == [2]
    assert torch.allclose(answer, expected, atol=1e-5) and not torch.allclose(answer, draw(backbone, guidance=guidance))


def test_a_compiled_generator_learns_and_paints_the_same(tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch):
    # As torch.compile does it but for the machine code, which takes a minute; the benchmarks run that
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))

    def learned_and_painted(*, compiled: bool) -> torch.Tensor:
        backbone = load_backbone(tiny_backbone, compiled=compiled)
        hypernetwork, drivers = steered(backbone)
        adapters = add_lora(backbone, rank=1, seed=0)
        latents = torch.randn(4, backbone.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
        loss_at = prompted_loss(backbone, latents, "a part", batch=2)
        list(training_loop(adapters, loss_at, steps=3, learning_rate=1e-2, seed=0))
        return sample_images(
            backbone, ["a part"] * 3, [1, 2, 3], 64, steps=2, guidance=2.0, batch=2,
            hypernetwork=hypernetwork, drivers=drivers[[0, 1, 1]],
        )  # fmt: skip

    counters.clear()
    compiled = learned_and_painted(compiled=True)
    assert counters["stats"]["unique_graphs"] == 3  # the U-Net that learns, the one that paints, and its hypernetwork
    assert torch.allclose(compiled, learned_and_painted(compiled=False), atol=1e-4)


def test_each_image_has_its_own_guidance(backbone: Backbone):
    alone = [draw(backbone, guidance=scale) for scale in (1.0, 4.0)]
    together = draw(backbone, guidance=torch.tensor([1.0, 4.0]))
    for k in range(2):
        assert torch.allclose(together[k], alone[k][k], atol=1e-4)
    assert not torch.allclose(alone[0][1], alone[1][1], atol=1e-2)
