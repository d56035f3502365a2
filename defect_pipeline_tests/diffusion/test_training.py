import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defect_pipeline.diffusion.adapters import Examples, concept_loss, hypernetwork_loss, prior_preservation
from defect_pipeline.diffusion.backbone import load_backbone
from defect_pipeline.diffusion.sampling import control_residuals, initial_noise, sample
from defect_pipeline.diffusion.training import TrainingState, denoising_loss, step_generator, training_loop
from defect_pipeline.errors import PipelineError
from defect_pipeline.resumable import resumed


def examples(backbone, n: int = 6) -> Examples:
    g = torch.Generator().manual_seed(0)
    images = (torch.rand(n, 64, 64, 3, generator=g) * 255).byte().numpy()
    masks = (torch.rand(n, 64, 64, generator=g) > 0.99).numpy()
    return Examples.of(backbone, images, images // 5, masks, ["an image of a sks with a crack defect"] * n)


def run(backbone_path: Path, steps: int, checkpoint: Path | None, stop_at: int | None = None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    backbone = load_backbone(backbone_path)
    prior = torch.randn(5, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    parameters = list(backbone.unet.requires_grad_(True).parameters())
    loss_at = concept_loss(
        backbone,
        examples(backbone),
        prior,
        "an image of a sks",
        "an image of a part",
        prior_weight=1.0,
        batch=2,
        prior_batch=1,
    )

    def loop(left: Mapping[str, torch.Tensor] | None) -> Iterator[TrainingState]:
        return training_loop(
            parameters, loss_at, steps=steps, learning_rate=1e-3, seed=5, warmup=2, decay=0.5, ema=0.9, resume=left
        )

    for state in resumed(loop, checkpoint, steps=steps, every=2) if checkpoint else loop(None):
        if state.step == stop_at:
            break
    return [p.detach().clone() for p in parameters]


def test_a_resumed_training_equals_an_uninterrupted_one(tiny_backbone: Path, tmp_path: Path):
    whole = run(tiny_backbone, 6, None)
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(tiny_backbone, 6, checkpoint, stop_at=5)  # killed after the checkpoint of step 4
    resumed = run(tiny_backbone, 6, checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    untrained = list(load_backbone(tiny_backbone).unet.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(whole, untrained, strict=True))


def test_a_checkpoint_of_another_network_is_refused(tiny_backbone: Path, tmp_path: Path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(tiny_backbone, 2, checkpoint)
    other = [nn.Parameter(torch.zeros(3))]

    def loop(left: Mapping[str, torch.Tensor] | None) -> Iterator[TrainingState]:
        return training_loop(other, lambda *_: (other[0].sum(), 1), steps=4, learning_rate=1.0, seed=0, resume=left)

    with pytest.raises(PipelineError, match=r"checkpoint\.safetensors is a checkpoint of another network"):
        next(resumed(loop, checkpoint, steps=4, every=2))


def test_windows_cost_what_whole_images_cost_and_show_the_same_places(tiny_backbone: Path):
    seen = examples(load_backbone(tiny_backbone))
    marked = replace(seen, latents=seen.masks[:, None].float().repeat(1, 8, 1, 1))  # latents that show the mask
    generator = torch.Generator().manual_seed(0)
    picks, latents, drivers, masks = marked.draw(3, 32, generator)
    assert len(picks) == 12 and latents.shape == (12, 8, 4, 4) and drivers.shape == (12, 3, 32, 32)
    assert torch.equal(latents[:, 0] > 0, masks) and drivers.max() <= 1
    picks, latents, drivers, masks = marked.draw(3, 0, generator)
    assert latents.shape == (3, 8, 8, 8) and torch.equal(drivers, seen.drivers[picks].float() / 255)


def test_training_lowers_the_loss_on_what_it_sees(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    seen = examples(backbone, 2)
    seen.latents[1] = seen.latents[0]
    parameters = list(backbone.unet.requires_grad_(True).parameters())
    loss_at = concept_loss(backbone, seen, seen.latents, "a", "b", prior_weight=1.0, batch=8, prior_batch=8)
    losses = [state.loss.item() for state in training_loop(parameters, loss_at, steps=60, learning_rate=3e-3, seed=0)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_prior_and_instance_terms_are_split_where_the_batch_says():
    loss = torch.cat([torch.full((3, 2, 2), 1.0), torch.full((2, 2, 2), 10.0)])
    assert prior_preservation(loss, 3, 0.5).item() == pytest.approx(1.0 + 0.5 * 10.0)
    assert prior_preservation(loss, 3, 0.0).item() == pytest.approx(1.0)


def test_concept_loss_sends_the_instance_prompt_with_instances_and_the_prior_prompt_with_the_prior(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    seen = examples(backbone)
    prior = seen.latents + 100  # unmistakable
    calls = []

    class Spy(nn.Module):
        device = backbone.device

        def forward(self, zt, t, text):
            calls.append((zt, text))
            return backbone.unet(zt, t, text)

    spied = copy.copy(backbone)
    spied.unet = Spy()
    loss_at = concept_loss(
        spied, seen, prior, "instance words", "prior words", prior_weight=1.0, batch=3, prior_batch=2
    )
    loss_at(0, step_generator(0, 0))
    zt, text = calls[0]
    assert zt[3:].abs().mean() > 3 * zt[:3].abs().mean()
    assert torch.equal(text[:3], backbone.embed(["instance words"]).expand(3, -1, -1))
    assert torch.equal(text[3:], backbone.embed(["prior words"]).expand(2, -1, -1))


def test_denoising_loss_is_the_mean_over_channels_of_the_squared_error(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    z0, noise = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 8, 8)
    text, t = backbone.embed(["a", "b"]), torch.tensor([100, 900])
    with torch.no_grad():
        loss = denoising_loss(backbone.unet, backbone.noising, z0, text, t, noise)
        zt = backbone.noising.noisy(z0, noise, t)
        expected = F.mse_loss(backbone.unet(zt, t, text).sample, backbone.noising.target(z0, noise, t))
    assert loss.shape == (2, 8, 8)
    assert loss.mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_zero_initialised_hypernetwork_equals_the_plain_model(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    hypernetwork = backbone.new_hypernetwork("zero").eval()
    text, empty, noise = (
        backbone.embed(["x", "y"]),
        backbone.embed([""]),
        initial_noise([1, 2], (8, 8, 8), backbone.device),
    )
    drivers = torch.rand(2, 3, 64, 64)
    plain = sample(backbone, text, empty, noise, steps=3, guidance=2.0)
    steered = sample(
        backbone, text, empty, noise, steps=3, guidance=2.0, residuals=control_residuals(hypernetwork, drivers)
    )
    assert torch.equal(plain, steered)
    with torch.no_grad():
        hypernetwork.controlnet_mid_block.weight.add_(0.5)
    moved = sample(
        backbone, text, empty, noise, steps=3, guidance=2.0, residuals=control_residuals(hypernetwork, drivers)
    )
    assert not torch.allclose(plain, moved)


def test_only_the_hypernetwork_gets_gradients_and_all_its_weights_move(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    hypernetwork = backbone.new_hypernetwork("zero").requires_grad_(True)
    before = {name: p.detach().clone() for name, p in hypernetwork.named_parameters()}
    loss_at = hypernetwork_loss(backbone, hypernetwork, examples(backbone), batch=4, mask_weight=4.0, text_dropout=0.2)
    for _ in training_loop(list(hypernetwork.parameters()), loss_at, steps=4, learning_rate=1e-2, seed=0):
        pass
    assert all(p.grad is None for p in backbone.unet.parameters())
    moved = [name for name, p in hypernetwork.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.95 * len(before)


def test_mask_weight_raises_the_share_of_masked_pixels(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    seen = examples(backbone)
    hypernetwork = backbone.new_hypernetwork("zero")
    values = []
    for weight in (1.0, 1e6):
        loss_at = hypernetwork_loss(backbone, hypernetwork, seen, batch=6, mask_weight=weight, text_dropout=0.0)
        with torch.no_grad():
            values.append(loss_at(0, step_generator(0, 0))[0].item())
    seen.masks[:] = False
    loss_at = hypernetwork_loss(backbone, hypernetwork, seen, batch=6, mask_weight=1e6, text_dropout=0.0)
    with torch.no_grad():
        unmasked = loss_at(0, step_generator(0, 0))[0].item()
    assert values[0] == pytest.approx(unmasked, rel=1e-5) and values[1] != pytest.approx(unmasked, rel=1e-5)


def test_an_image_is_the_same_whatever_batch_it_is_drawn_in():
    shape = (4, 8, 8)
    together = initial_noise([3, 4, 5], shape, torch.device("cpu"))
    assert torch.equal(together[1:2], initial_noise([4], shape, torch.device("cpu")))


def test_a_driver_of_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        control_residuals(nn.Identity(), torch.zeros(1, 3, 60, 64))
    with pytest.raises(ValueError, match=r"\(n, 3, H, W\)"):
        control_residuals(nn.Identity(), torch.zeros(1, 1, 64, 64))
