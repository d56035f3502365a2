"""Synthesis: images from drivers and from noised images, beside the diffusers pipelines with the same weights."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.utils import logging
from torch import Tensor

from defect_pipeline.diffusion.backbone import Backbone, load_backbone, load_pipeline
from defect_pipeline.diffusion.sampling import initial_noise, sample_images
from defect_pipeline.diffusion.world import Surfaces, draw_surfaces
from defect_pipeline.evaluation.distances import kernel_distance_ci
from defect_pipeline.evaluation.features import load_extractor
from defect_pipeline.profiles import EMBEDDED
from defect_pipeline_tests.benchmarks.machine import flops, in_products
from defect_pipeline_tests.benchmarks.timing import Row, in_turn

SIZE, GUIDANCE, PROMPT, DEFAULT_STEPS = 128, 7.5, "a photo of a component", 50
JUDGED = 64  # images for a KID
DIRECTORY, STRENGTH = Path(EMBEDDED.backbone), EMBEDDED.stablesdg.strength
OUR_STEPS = EMBEDDED.synthesis.steps
FROM_IMAGES = f"images from images, s = {STRENGTH}, {EMBEDDED.stablesdg.solver_steps} steps, {SIZE} px"
Paint = Callable[[], np.ndarray]  # (n, SIZE, SIZE, 3), grey levels


def drivers_by_default(n: int, repeats: int, *, steps: int = OUR_STEPS) -> Row:
    """Against the ControlNet pipeline as its documentation calls it: one image a call, 50 steps. What our fewer steps cost
    is told by the KID of both to surfaces as the backbone learned from, by their captions."""
    backbone, hypernetwork = _generator()
    pipe, drivers = _controlled(backbone, hypernetwork), _drivers(n)

    def theirs() -> np.ndarray:
        return np.concatenate([_asked(pipe, driver[None]) for driver in drivers])

    ours = _ours(backbone, hypernetwork, drivers, steps=steps)
    times = in_turn(ours, theirs, repeats)
    judged = _ours(backbone, hypernetwork, _plain(), _described().captions, steps=steps)
    against = f"pipeline, 50 steps, one by one; KID of {JUDGED}: ours {_kid(judged())}, theirs {_kid_by_default()}"
    return Row(_from_drivers(steps), n, *times, against, "images", flops(ours), in_products(ours))


@cache
def _kid_by_default() -> str:
    """Of the ControlNet pipeline with its defaults, JUDGED images in one batch."""
    return _kid(_asked(_controlled(*_generator()), _plain(), _described().captions))


def drivers_alike(n: int, repeats: int, *, compiled: bool = False) -> Row:
    """Against the same pipeline in one batch, with our solver, steps and noise, the networks of both ``compiled`` or not:
    the images must be the same. The compiling is not timed."""
    backbone, hypernetwork = _generator()
    pipe, drivers = _controlled(*_generator()), _drivers(n)
    if compiled:
        pipe.unet, pipe.controlnet = torch.compile(pipe.unet), torch.compile(pipe.controlnet)
    pipe.scheduler = _trailing(pipe.scheduler)
    noise = initial_noise(range(n), (backbone.unet.config.in_channels, *[SIZE // backbone.factor] * 2), backbone.device)

    def theirs() -> np.ndarray:
        return _asked(pipe, drivers, num_inference_steps=OUR_STEPS, latents=noise)

    eager = _ours(backbone, hypernetwork, drivers)
    ours = _ours(*_generator(compiled=True), drivers) if compiled else eager
    assert np.abs(ours() - theirs()).mean() < 0.5, "the images differ"
    times = in_turn(ours, theirs, repeats)
    return Row(_from_drivers(OUR_STEPS), n, *times, _alike(compiled), "images", flops(eager), in_products(ours))


def images_by_default(n: int, repeats: int) -> Row:
    """Against the image-to-image pipeline, one image a call, 50 steps of which the strength's share is taken."""
    pipe, sources, latents = _from_images(n)
    ours = _on_images(load_backbone(DIRECTORY), latents)

    def theirs() -> np.ndarray:
        return np.concatenate([_asked(pipe, source[None], strength=STRENGTH) for source in sources])

    times = in_turn(ours, theirs, repeats)
    return Row(FROM_IMAGES, n, *times, "pipeline, 50 steps, one by one", "images", flops(ours), in_products(ours))


def images_alike(n: int, repeats: int, *, compiled: bool = False) -> Row:
    """Against the same pipeline in one batch, with our solver, steps and noise, the U-Nets of both ``compiled`` or not: the
    images must be the same. The compiling is not timed."""
    pipe, sources, latents = _from_images(n)
    eager = _on_images(load_backbone(DIRECTORY), latents)
    ours = _on_images(load_backbone(DIRECTORY, compiled=True), latents) if compiled else eager
    if compiled:
        pipe.unet = torch.compile(pipe.unet)
    pipe.scheduler = _trailing(pipe.scheduler)
    encode = pipe.vae.encode
    pipe.vae.encode = lambda x: SimpleNamespace(latents=encode(x).latent_dist.mode())  # ours draws none either
    steps = round(EMBEDDED.stablesdg.solver_steps / STRENGTH)  # the pipeline takes the strength's share of them
    timesteps = torch.linspace(pipe.scheduler.config.num_train_timesteps, 0, steps + 1)[:-1].round().long() - 1

    def theirs() -> np.ndarray:
        noise = [torch.Generator().manual_seed(seed) for seed in range(n)]
        return _asked(pipe, sources, timesteps=timesteps.tolist(), strength=STRENGTH, generator=noise)

    assert np.abs(ours() - theirs()).mean() < 0.5, "the images differ"
    times = in_turn(ours, theirs, repeats)
    return Row(FROM_IMAGES, n, *times, _alike(compiled), "images", flops(eager), in_products(ours))


def _from_images(n: int) -> tuple[StableDiffusionImg2ImgPipeline, Tensor, Tensor]:
    """The pipeline, and n images to begin with: (n, 3, SIZE, SIZE) in [0, 1], and as latents."""
    pipe = StableDiffusionImg2ImgPipeline(**load_pipeline(DIRECTORY).components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    sources = draw_surfaces(n, SIZE, torch.Generator().manual_seed(0)).images
    return pipe, sources, load_backbone(DIRECTORY).encode(sources * 2 - 1)


def _on_images(backbone: Backbone, latents: Tensor) -> Paint:
    """Our way to paint on images."""

    def paint() -> np.ndarray:
        n = len(latents)
        z = sample_images(
            backbone, [PROMPT] * n, range(n), SIZE, steps=EMBEDDED.stablesdg.solver_steps, guidance=GUIDANCE,
            batch=EMBEDDED.synthesis.batch, sources=latents, strength=STRENGTH,
        )  # fmt: skip
        return backbone.decode(z).numpy().astype(np.float32)

    return paint


def _trailing(scheduler: DPMSolverMultistepScheduler) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler.from_config(scheduler.config, timestep_spacing="trailing")


def _alike(compiled: bool) -> str:
    return f"pipeline, same batch, solver, steps{', both compiled' if compiled else ''}"


def _from_drivers(steps: int) -> str:
    return f"images from drivers, {steps} steps, {SIZE} px"


def _generator(*, compiled: bool = False) -> tuple[Backbone, ControlNetModel]:
    backbone = load_backbone(DIRECTORY, compiled=compiled)
    return backbone, backbone.new_hypernetwork("backbone")


def _controlled(backbone: Backbone, hypernetwork: ControlNetModel) -> StableDiffusionControlNetPipeline:
    logging.set_verbosity_error()  # of the safety checker that it has none
    pipe = StableDiffusionControlNetPipeline(
        backbone.vae, backbone.text_encoder, backbone.tokenizer, backbone.unet, hypernetwork, backbone.scheduler,
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _drivers(n: int) -> Tensor:
    """(n, 3, SIZE, SIZE) in [0, 1]: a defect's colour on black."""
    masks = draw_surfaces(n, SIZE, torch.Generator().manual_seed(0), marked=1.0).masks
    return masks[:, None].float() * torch.tensor([1.0, 0.2, 0.2]).view(1, 3, 1, 1)


def _plain() -> Tensor:
    """JUDGED drivers without structure and defects."""
    return torch.zeros(JUDGED, 3, SIZE, SIZE)


@cache
def _described() -> Surfaces:
    """Surfaces with captions to paint by."""
    return draw_surfaces(JUDGED, SIZE, torch.Generator().manual_seed(1))


def _ours(
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    drivers: Tensor,
    prompts: Sequence[str] | None = None,
    *,
    steps: int = OUR_STEPS,
) -> Paint:
    """Our way to paint by drivers."""

    def paint() -> np.ndarray:
        n = len(drivers)
        z = sample_images(
            backbone, prompts or [PROMPT] * n, range(n), SIZE, steps=steps, guidance=GUIDANCE,
            batch=EMBEDDED.synthesis.batch, hypernetwork=hypernetwork, drivers=drivers,
        )  # fmt: skip
        return backbone.decode(z).numpy().astype(np.float32)

    return paint


def _asked(pipe, images: Tensor, prompts: Sequence[str] | None = None, **options) -> np.ndarray:
    """What a pipeline makes of these images, in grey levels."""
    options = {"num_inference_steps": DEFAULT_STEPS, "guidance_scale": GUIDANCE, "output_type": "np"} | options
    return pipe(prompts or [PROMPT] * len(images), image=images, **options).images * 255


def _kid(images: np.ndarray) -> str:
    """To other surfaces than those described, with its 95 % interval."""
    real = draw_surfaces(JUDGED, SIZE, torch.Generator().manual_seed(2)).images
    extractor = load_extractor("efficientnet-lite0")
    grey_levels = (np.clip(images, 0, 255), real.permute(0, 2, 3, 1).numpy() * 255)
    found, reference = (extractor.features(x.round().astype(np.uint8)) for x in grey_levels)
    kid, low, high = kernel_distance_ci(reference, found, resamples=1000, seed=0)
    return f"{kid:.3f} ({low:.3f} … {high:.3f})"
