"""Synthesis: images from drivers and from noised images, beside the diffusers pipelines with the same weights."""

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.utils import logging
from torch import Tensor

from defect_pipeline.allocator import keep_freed_memory
from defect_pipeline.diffusion.backbone import Backbone
from defect_pipeline.diffusion.sampling import initial_noise, sample_images
from defect_pipeline.diffusion.world import Surfaces, draw_surfaces
from defect_pipeline.evaluation.distances import kernel_distance_ci
from defect_pipeline.evaluation.features import load_extractor
from defect_pipeline.profiles import EMBEDDED
from defect_pipeline_tests.benchmarks.case import Case
from defect_pipeline_tests.benchmarks.machine import flops, in_products
from defect_pipeline_tests.benchmarks.timing import Row, in_turn

GUIDANCE, PROMPT, DEFAULT_STEPS = 7.5, "a photo of a component", 50
JUDGED = 64  # images for a KID
OUR_STEPS = EMBEDDED.synthesis.steps
STRENGTH, STEPS_INSIDE = EMBEDDED.stablesdg.strength, EMBEDDED.stablesdg.solver_steps
ALIKE = 0.5  # grey levels, mean difference of images that are the same
NEARLY = 5.0  # in lower precision, or by a network of random weights, which amplify what is rounded
Paint = Callable[[], np.ndarray]  # (n, H, W, 3), grey levels
Pipe = TypeVar("Pipe", bound=DiffusionPipeline)


def drivers_by_default(case: Case, n: int, repeats: int, *, steps: int = OUR_STEPS) -> Row:
    """Against the ControlNet pipeline as its documentation calls it: one image a call, 50 steps. What our fewer steps cost
    is told by the KID of both to surfaces as the backbone learned from, by their captions."""
    pipe, drivers = _controlled(case), _drivers(case, n)

    def theirs() -> np.ndarray:
        return np.concatenate([_asked(pipe, driver[None]) for driver in drivers])

    generator = case.generator()
    ours = _by_drivers(generator, drivers, steps=steps)
    times = in_turn(ours, theirs, repeats)
    judged = _kid(case, _by_drivers(generator, _plain(case), _described(case).captions, steps=steps)())
    against = f"pipeline, 50 steps, one by one; KID of {JUDGED}: ours {judged}, theirs {_kid_by_default(case)}"
    return _row(case, _from_drivers(case, steps), n, times, against, ours)


@cache
def _kid_by_default(case: Case) -> str:
    """Of the ControlNet pipeline with its defaults, JUDGED images in one batch."""
    return _kid(case, _asked(_controlled(case), _plain(case), _described(case).captions))


def drivers_alike(case: Case, n: int, repeats: int, *, compiled: bool = False) -> Row:
    """Against the same pipeline in one batch, with our solver, steps and noise, the networks of both ``compiled`` or not:
    the images must be the same. The compiling is not timed."""
    pipe, drivers = _controlled(case), _drivers(case, n)
    if compiled:
        pipe.unet, pipe.controlnet = torch.compile(pipe.unet), torch.compile(pipe.controlnet)
    pipe.scheduler = _trailing(pipe.scheduler)
    backbone, hypernetwork = case.generator()
    eager = _by_drivers((backbone, hypernetwork), drivers)
    shape = (backbone.unet.config.in_channels, *[case.size // backbone.factor] * 2)
    noise = initial_noise(range(n), shape, backbone.device).to(case.dtype)

    def theirs() -> np.ndarray:
        return _asked(pipe, drivers, num_inference_steps=OUR_STEPS, latents=noise)

    ours = _by_drivers(case.generator(compiled=True), drivers) if compiled else eager
    _check_alike(case, ours, theirs)
    times = in_turn(ours, theirs, repeats)
    return _row(case, _from_drivers(case, OUR_STEPS), n, times, _alike(compiled), ours, eager)


def images_by_default(case: Case, n: int, repeats: int) -> Row:
    """Against the image-to-image pipeline, one image a call, 50 steps of which the strength's share is taken."""
    pipe, sources = _from_images(case), _drawn(case, n).images
    ours = _on_images(case.backbone(), sources)

    def theirs() -> np.ndarray:
        return np.concatenate([_asked(pipe, source[None], strength=STRENGTH) for source in sources])

    times = in_turn(ours, theirs, repeats)
    return _row(case, _on_images_of(case), n, times, "pipeline, 50 steps, one by one", ours)


def images_alike(case: Case, n: int, repeats: int, *, compiled: bool = False) -> Row:
    """Against the same pipeline in one batch, with our solver, steps and noise, the U-Nets of both ``compiled`` or not: the
    images must be the same. The compiling is not timed."""
    pipe, sources = _from_images(case), _drawn(case, n).images
    eager = _on_images(case.backbone(), sources)
    ours = _on_images(case.backbone(compiled=True), sources) if compiled else eager
    if compiled:
        pipe.unet = torch.compile(pipe.unet)
    pipe.scheduler = _trailing(pipe.scheduler)
    encode = pipe.vae.encode
    pipe.vae.encode = lambda x: SimpleNamespace(latents=encode(x).latent_dist.mode())  # ours draws none either
    steps = round(STEPS_INSIDE / STRENGTH)  # the pipeline takes the strength's share of them
    timesteps = torch.linspace(pipe.scheduler.config.num_train_timesteps, 0, steps + 1)[:-1].round().long() - 1

    def theirs() -> np.ndarray:
        noise = [torch.Generator().manual_seed(seed) for seed in range(n)]
        return _asked(pipe, sources, timesteps=timesteps.tolist(), strength=STRENGTH, generator=noise)

    _check_alike(case, ours, theirs)
    times = in_turn(ours, theirs, repeats)
    return _row(case, _on_images_of(case), n, times, _alike(compiled), ours, eager)


def _row(
    case: Case, name: str, n: int, times: tuple[list[float], list[float]], against: str, ours: Paint, eager: Paint | None = None
) -> Row:  # fmt: skip
    """What compiled networks compute is counted by what they do ``eager``."""
    return Row(name, n, *times, against, "images", flops(eager or ours), in_products(ours, case.device))


def _check_alike(case: Case, ours: Paint, theirs: Paint) -> None:
    """Raises AssertionError where the two paint different images."""
    difference = np.abs(ours() - theirs()).mean()
    limit = ALIKE if case.ours("unet") and case.precision == "float32" else NEARLY
    assert difference < limit, f"the images differ by {difference:.2g} grey levels"


def _from_images(case: Case) -> StableDiffusionImg2ImgPipeline:
    return _set_up(StableDiffusionImg2ImgPipeline, case, case.backbone())


def _on_images(backbone: Backbone, sources: Tensor) -> Paint:
    """Our way to paint on images (n, 3, H, W) in [0, 1], encoded once."""
    latents, n = backbone.encode(sources * 2 - 1), len(sources)

    def paint() -> np.ndarray:
        z = sample_images(
            backbone, [PROMPT] * n, range(n), sources.shape[-1], steps=STEPS_INSIDE, guidance=GUIDANCE,
            batch=EMBEDDED.synthesis.batch, sources=latents, strength=STRENGTH,
        )  # fmt: skip
        return backbone.decode(z).numpy().astype(np.float32)

    return paint


def _trailing(scheduler: DPMSolverMultistepScheduler) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler.from_config(scheduler.config, timestep_spacing="trailing")


def _alike(compiled: bool) -> str:
    return f"pipeline, same batch, solver, steps{', both compiled' if compiled else ''}"


def _from_drivers(case: Case, steps: int) -> str:
    return f"images from drivers, {steps} steps, {case.size} px"


def _on_images_of(case: Case) -> str:
    return f"images from images, s = {STRENGTH}, {STEPS_INSIDE} steps, {case.size} px"


def _controlled(case: Case) -> StableDiffusionControlNetPipeline:
    backbone, hypernetwork = case.generator()
    return _set_up(StableDiffusionControlNetPipeline, case, backbone, controlnet=hypernetwork)


def _set_up(kind: type[Pipe], case: Case, backbone: Backbone, **networks: ControlNetModel) -> Pipe:
    """A pipeline of this backbone's parts, without a safety checker. Ours runs in the same process, and memory is kept as in
    every stage of a run: theirs gains by it too."""
    keep_freed_memory()
    logging.set_verbosity_error()  # of the safety checker that it has none
    pipe = kind(
        vae=backbone.vae, text_encoder=backbone.text_encoder, tokenizer=backbone.tokenizer, unet=backbone.unet,
        scheduler=backbone.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **networks,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(case.device, case.dtype)


def _drawn(case: Case, n: int) -> Surfaces:
    return draw_surfaces(n, case.size, torch.Generator().manual_seed(0), marked=1.0)


def _drivers(case: Case, n: int) -> Tensor:
    """(n, 3, H, W) in [0, 1]: a defect's colour on black."""
    return _drawn(case, n).masks[:, None].float() * torch.tensor([1.0, 0.2, 0.2]).view(1, 3, 1, 1)


def _plain(case: Case) -> Tensor:
    """JUDGED drivers without structure and defects."""
    return torch.zeros(JUDGED, 3, case.size, case.size)


@cache
def _described(case: Case) -> Surfaces:
    """Surfaces with captions to paint by."""
    return draw_surfaces(JUDGED, case.size, torch.Generator().manual_seed(1))


def _by_drivers(
    generator: tuple[Backbone, ControlNetModel],
    drivers: Tensor,
    prompts: Sequence[str] | None = None,
    *,
    steps: int = OUR_STEPS,
) -> Paint:
    """Our way to paint by drivers."""
    (backbone, hypernetwork), n = generator, len(drivers)

    def paint() -> np.ndarray:
        z = sample_images(
            backbone, prompts or [PROMPT] * n, range(n), drivers.shape[-1], steps=steps, guidance=GUIDANCE,
            batch=EMBEDDED.synthesis.batch, hypernetwork=hypernetwork, drivers=drivers,
        )  # fmt: skip
        return backbone.decode(z).numpy().astype(np.float32)

    return paint


def _asked(pipe, images: Tensor, prompts: Sequence[str] | None = None, **options) -> np.ndarray:
    """What a pipeline makes of these images, in grey levels."""
    options = {"num_inference_steps": DEFAULT_STEPS, "guidance_scale": GUIDANCE, "output_type": "np"} | options
    return pipe(prompts or [PROMPT] * len(images), image=images, **options).images * 255


def _kid(case: Case, images: np.ndarray) -> str:
    """To other surfaces than those described, with its 95 % interval."""
    real = draw_surfaces(JUDGED, case.size, torch.Generator().manual_seed(2)).images
    extractor = load_extractor("efficientnet-lite0")
    grey_levels = (np.clip(images, 0, 255), real.permute(0, 2, 3, 1).numpy() * 255)
    found, reference = (extractor.features(x.round().astype(np.uint8)) for x in grey_levels)
    kid, low, high = kernel_distance_ci(reference, found, resamples=1000, seed=0)
    return f"{kid:.3f} ({low:.3f} … {high:.3f})"
