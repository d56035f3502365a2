"""One sampler: DPM-Solver++ 2M with batched classifier-free guidance, with or without a hypernetwork."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler
from torch import Generator, Tensor, nn

from defect_pipeline.diffusion.backbone import Backbone

Residuals = Callable[[Tensor, Tensor, Tensor], dict]
AS_IT_IS = nn.Identity()


def control_residuals(hypernetwork: ControlNetModel, condition: Tensor, scale: float = 1.0) -> Residuals:
    """Binds drivers (n, 3, H, W) in [0, 1], H and W multiples of 8, to a hypernetwork, for loss and sampler.

    They are embedded at the first call, not at each step of a sampling and for both sides of guidance: of the embedded
    hypernetwork that is a third of the work.
    """
    if condition.shape[1] != 3 or condition.shape[2] % 8 or condition.shape[3] % 8:
        raise ValueError(f"a driver is (n, 3, H, W) with sides that are multiples of 8, not {tuple(condition.shape)}")

    @cache
    def embedded() -> Tensor:
        return hypernetwork.controlnet_cond_embedding(condition)  # (n, D, h, w)

    def residuals(zt: Tensor, t: Tensor, text: Tensor) -> dict:
        cond = embedded().repeat(len(zt) // len(condition), 1, 1, 1)  # guidance doubles the batch
        with _given_embedded(hypernetwork):
            down, mid = hypernetwork(zt, t, text, controlnet_cond=cond, conditioning_scale=scale, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    return residuals


@contextmanager
def _given_embedded(hypernetwork: ControlNetModel) -> Iterator[None]:
    """In the block, it takes what its embedding makes of drivers in their place."""
    embedding = hypernetwork.controlnet_cond_embedding
    hypernetwork.controlnet_cond_embedding = AS_IT_IS
    try:
        yield
    finally:
        hypernetwork.controlnet_cond_embedding = embedding


def conditions(drivers: np.ndarray) -> Tensor:
    """Drivers (n, H, W, 3) uint8 as a hypernetwork takes them, (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(drivers).permute(0, 3, 1, 2).float() / 255


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Gaussian latents (n, C, h, w), one generator per image: the same image whatever batch it is drawn in."""
    noise = [torch.randn(shape, generator=Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(device)


@torch.no_grad()
def sample(
    backbone: Backbone,
    text: Tensor,
    unconditional: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance: Tensor | float,
    residuals: Residuals | None = None,
    source: Tensor | None = None,
    strength: Tensor | float = 1.0,
) -> Tensor:
    """Latents (n, C, h, w) from ``noise``, for text embeddings (n, L, D); ``unconditional`` is (1, L, D).

    ``guidance`` is classifier-free guidance's scale, one or (n,): 1 answers the text alone and costs half. ``residuals`` as in
    `denoising_loss`, for n images, or for 2n with guidance, the unconditional ones first. With ``source`` latents
    (n, C, h, w) and ``strength`` s < 1 the ``steps`` lie inside T' = s * T and start from the source noised to T'
    (paper B §3.3); s = 1 forgets the source, 0 returns it. A map of strengths (n, h, w) starts at its largest, and
    holds each cell at the noised source until the cell's own T' is reached (Levin and Fried, Differential Diffusion).
    """
    scheduler = DPMSolverMultistepScheduler.from_config(backbone.scheduler.config, timestep_spacing="trailing")
    strengths = torch.as_tensor(strength, device=noise.device).expand(noise.shape[:1] + noise.shape[2:])  # (n, h, w)
    first, begins = strengths.max().item(), strengths[:, None] * scheduler.config.num_train_timesteps
    if source is not None and first <= 0:
        return source
    if source is None or first >= 1:
        scheduler.set_timesteps(steps, device=noise.device)
        z = noise * scheduler.init_noise_sigma
    else:
        times = torch.linspace(begins.max().item(), 0, steps + 1)[:-1].round().long().clamp(min=1) - 1
        scheduler.set_timesteps(timesteps=times.unique().flip(0).tolist(), device=noise.device)
        z = backbone.noising.noisy(source, noise, scheduler.timesteps[:1])
    guided = _guided(guidance)
    if guided:
        scale = torch.as_tensor(guidance, device=noise.device).expand(len(noise)).view(-1, 1, 1, 1)
        text = torch.cat([unconditional.expand_as(text), text])  # (2n, L, D)
    for t in scheduler.timesteps:
        if source is not None:
            z = torch.where(t < begins, z, backbone.noising.noisy(source, noise, t[None]))
        zt = torch.cat([z, z]) if guided else z
        times = t.expand(len(zt))
        with backbone.autocast():
            extra = residuals(zt, times, text) if residuals else {}
            answer = backbone.unet(zt, times, text, **extra).sample.float()
        if guided:
            unguided, conditional = answer.chunk(2)
            answer = unguided + scale * (conditional - unguided)
        z = scheduler.step(answer, t, z).prev_sample
    return z if source is None else torch.where(begins > 0, z, source)


def sample_images(
    backbone: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: int,
    *,
    steps: int,
    guidance: Tensor | float,
    batch: int,
    hypernetwork: nn.Module | None = None,
    drivers: Tensor | None = None,
    without: tuple[str, Tensor] | None = None,
    sources: Tensor | None = None,
    strength: Tensor | float = 1.0,
    on_batch: Callable[[int, Tensor], None] = lambda *_: None,
) -> Tensor:
    """Latents (n, C, size/factor, size/factor) for n prompts and seeds, ``batch`` at a time.

    ``drivers`` (n, 3, size, size) in [0, 1] go with ``hypernetwork``. ``guidance`` leads away from the empty prompt
    under the same drivers, or from what ``without`` names: a prompt and drivers that lack what is to be painted.
    ``sources`` (latents) go with ``strength``, one for all, one or a map for each image: see `sample`. ``on_batch(start, latents)`` is called after
    each batch, so that images can be kept as they come.
    """
    side = size // backbone.factor
    shape = (backbone.unet.config.in_channels, side, side)
    unconditional = backbone.embed([without[0] if without else ""])
    known = {prompt: backbone.embed([prompt]) for prompt in dict.fromkeys(prompts)}
    parts = []
    for start in range(0, len(prompts), batch):
        chosen = list(range(start, min(start + batch, len(prompts))))
        n = len(chosen)
        if backbone.compiled:  # a batch of another size would be compiled anew
            chosen += chosen[-1:] * (batch - n)
        scale = guidance[chosen] if isinstance(guidance, Tensor) else guidance
        text = torch.cat([known[prompts[k]] for k in chosen])
        residuals = None
        if hypernetwork is not None and drivers is not None:
            steering = drivers[chosen]
            if without is not None and _guided(scale):
                steering = torch.cat([without[1][chosen], steering])
            residuals = control_residuals(hypernetwork, steering.to(backbone.device))
        noise = initial_noise([seeds[k] for k in chosen], shape, backbone.device)
        parts.append(
            sample(
                backbone, text, unconditional, noise, steps=steps, guidance=scale, residuals=residuals,
                source=None if sources is None else sources[chosen],
                strength=strength[chosen] if isinstance(strength, Tensor) else strength,
            )[:n]
        )  # fmt: skip
        on_batch(start, parts[-1])
    return torch.cat(parts)


def _guided(guidance: Tensor | float) -> bool:
    return bool((torch.as_tensor(guidance) != 1).any())
