import torch

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.world import draw_surfaces


def surfaces(seed: int, n: int = 24) -> torch.Tensor:
    return draw_surfaces(n, 64, torch.Generator().manual_seed(seed)).images * 2 - 1


def test_more_components_reconstruct_unseen_surfaces_better():
    seen, unseen = surfaces(0, 48), surfaces(1)
    errors = []
    for luma in (3, 10):
        vae = LinearPatchAutoencoder.fit([seen], luma)
        with torch.no_grad():
            errors.append((vae.decode(vae.encode(unseen).latent_dist.mean).sample - unseen).square().mean().item())
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < 0.2 * unseen.var().item()


def test_latents_have_unit_variance_on_average_and_the_mean_is_the_mode():
    vae = LinearPatchAutoencoder.fit([surfaces(0, 48)])
    with torch.no_grad():
        posterior = vae.encode(surfaces(0, 48)).latent_dist
    assert abs(posterior.mean.var(dim=(0, 2, 3)).mean().item() - 1) < 0.1
    assert torch.allclose(posterior.sample(), posterior.mode(), atol=1e-4)


def test_a_grey_image_has_no_chroma_and_comes_back_grey():
    vae = LinearPatchAutoencoder.fit([surfaces(0)])
    grey = surfaces(2)[:, :1].expand(-1, 3, -1, -1)
    with torch.no_grad():
        z = vae.encode(grey).latent_dist.mean
        back = vae.decode(z).sample
    assert z[:, 10:].abs().max() < 1e-3
    assert (back[:, 0] - back[:, 2]).abs().max() < 1e-3
