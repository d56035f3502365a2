"""Other generators beside StableSDG on the same images: paper B, Table V.

Every one of them sees the train images of one class and paints as many images as StableSDG does. Those that begin
without knowledge, DCGAN and the diffusion from scratch, also see the mirror images, for little data is all there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from defect_pipeline import baselines, diffusion, generator
from defect_pipeline.assets.concept import SAMPLED, training_of
from defect_pipeline.assets.drivers import make_driver
from defect_pipeline.assets.experiments.adaptation import ADAPTED
from defect_pipeline.assets.experiments.painted import UNCHANGED, judge, over_classes, paint
from defect_pipeline.assets.experiments.rows import table_stage
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import PAINTED, lora_weights, token_embedding, train_windows
from defect_pipeline.assets.stablesdg.generate import read_generated, stablesdg_images
from defect_pipeline.assets.stablesdg.tune import Choice, Tuned, strength_and_guidance
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.generator.canvases import image_seeds, in_turn
from defect_pipeline.generator.loading import load_untouched
from defect_pipeline.generator.prompts import concept_prompt, prior_prompt
from defect_pipeline.imaging.crops import Crop
from defect_pipeline.imaging.geometry import crop_resize
from defect_pipeline.imaging.sheets import heat_map
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.store import atomic_write

if TYPE_CHECKING:
    from defect_pipeline.diffusion.backbone import Backbone

GENERATOR, STEPS, MINUTES = "generator", "steps", "minutes"


class Made(NamedTuple):
    """What a generator painted (S, S, 3) uint8, after so many training steps in so many minutes."""

    images: list[np.ndarray]
    steps: int
    minutes: float


SETTINGS = (
    "baselines", "concept", "stablesdg", "optimizer", "extractor", "extractor_weights", "drivers", *SAMPLED, *PAINTED,
)  # fmt: skip


@stage(
    parents=(inspection_images, token_embedding, lora_weights, strength_and_guidance, stablesdg_images),
    settings=SETTINGS,
    images=Subset(shows="own class", classes="ranked"),
    group="experiments",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def table_v_cell(build: Build) -> None:
    """Images of one class by other generators, by StableSDG, and its sources unchanged: as many of each.

    Minutes are those of training; of what the second system's own stages trained, those of the stages.
    """
    crops = train_windows(build)
    made: dict[tuple, Made] = {}
    for name, generate in GENERATORS.items():
        made[(name,)] = generate(build, crops)
        build.progress(len(made), len(GENERATORS))
    spent = {key: {STEPS: own.steps, MINUTES: own.minutes} for key, own in made.items()}
    judge(build, crops, (GENERATOR,), {key: own.images for key, own in made.items()}, spent)


@table_stage(inspection_images, table_v_cell)
def table_v(build: Build) -> None:
    """Paper B, Table V: KID, FID and copies of each generator, by class and over classes."""
    table = over_classes(build, table_v_cell, (GENERATOR,), further=(STEPS, MINUTES), of_each=("kid", "fid", "copies"))
    kid, fid, copies = (
        table[[f"{figure}, {k}" for k in build.classes]].to_numpy() for figure in ("kid", "fid", "copies")
    )
    texts = [
        [f"{k:.3f}\nFID {f:.1f}\n{c:.0%} copies" for k, f, c in zip(*row, strict=True)]
        for row in zip(kid, fid, copies, strict=True)
    ]
    picture = heat_map(kid, texts, table[GENERATOR].tolist(), list(build.classes), "KID to held-out images")
    build.picture("table_v", picture)


# --- From scratch --------------------------------------------------------------------------------------------------


def _dcgan(build: Build, crops: list[Crop]) -> Made:
    """Trained at a size of its own; what it paints is brought to the profile's."""
    settings, size = build.settings.baselines, build.settings.drivers.size
    images = np.stack([crop_resize(image, (0, 0, size), settings.gan_size) for image in _mirrored(crops)])
    gan = baselines.dcgan.build_dcgan(
        settings.gan_size, width=settings.gan_width, seed=build.seed, device=build.settings.device
    )
    training = partial(
        baselines.dcgan.learn_dcgan, gan, images, steps=settings.gan_steps, batch=settings.gan_batch,
        learning_rate=settings.gan_learning_rate, betas=(settings.gan_beta1, settings.gan_beta2), seed=build.seed,
        checkpoint=build.workdir / "dcgan.safetensors", progress=build.progress,
    )  # fmt: skip
    minutes = _timed(build.workdir / "dcgan.minutes", settings.gan_steps, training)
    painted = baselines.dcgan.paint(gan, _seeds(build, "dcgan"))
    return Made([crop_resize(image, (0, 0, settings.gan_size), size) for image in painted], settings.gan_steps, minutes)


def _ddim(build: Build, crops: list[Crop]) -> Made:
    """In the latents of the profile's autoencoder, by the one training loop."""
    settings, backbone = build.settings.baselines, load_untouched(build.settings)
    latents = backbone.encode_pixels(_mirrored(crops))
    channels, side = latents.shape[1:3]
    unet = baselines.ddim.build_unet(channels, side, settings.ddim_widths, seed=build.seed).to(backbone.device)
    loss_at = baselines.ddim.unconditional_loss(unet, backbone.noising, latents, batch=settings.ddim_batch)
    steps, rate = settings.ddim_steps, settings.ddim_learning_rate
    training = partial(
        generator.learning.train, list(unet.parameters()), loss_at, steps=steps, learning_rate=rate,
        **training_of(build, "ddim"),
    )  # fmt: skip
    minutes = _timed(build.workdir / "ddim.minutes", steps, training)
    noise = diffusion.sampling.initial_noise(_seeds(build, "ddim"), (channels, side, side), backbone.device)
    painted = baselines.ddim.sample_ddim(unet.eval(), backbone.scheduler, noise, steps=settings.ddim_solver_steps)
    return Made(list(backbone.decode(painted).numpy()), steps, minutes)


def _mirrored(crops: Sequence[Crop]) -> np.ndarray:
    """The crops and their mirror images (4n, S, S, 3) uint8: left to right, upside down, and both."""
    images = np.stack([crop.image for crop in crops])
    return np.concatenate([images, images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]])


def _seeds(build: Build, name: str) -> list[int]:
    """One for each image that the profile asks for."""
    return image_seeds(build.seed, build.defect_class, name, build.settings.stablesdg.images)


# --- From the backbone ---------------------------------------------------------------------------------------------


def _textual_inversion(build: Build, crops: list[Crop]) -> Made:
    """The second system's token and nothing else."""
    images = _from_noise(build, crops, *ADAPTED["token"](build, crops))
    return Made(images, build.settings.stablesdg.token_steps, _minutes_of(build, token_embedding))


def _dreambooth(build: Build, crops: list[Crop]) -> Made:
    """The first system's concept, learned from this class's images alone."""
    settings, profile = build.settings.concept, build.settings
    backbone, prompt = load_untouched(profile), concept_prompt(settings.token)
    images, masks = (np.stack(parts) for parts in zip(*((c.image, c.mask()) for c in crops), strict=True))
    drivers = np.stack([make_driver(c.image, c.masks, profile.drivers, build.colours) for c in crops])
    examples = diffusion.adapters.Examples.of(backbone, images, drivers, masks, [prompt] * len(crops))
    prior = generator.painting.prior_latents(
        backbone, prior_prompt(settings.class_noun), settings.prior_images, profile.drivers.size,
        build.workdir / "prior.safetensors", synthesis=profile.synthesis, progress=build.progress,
    )  # fmt: skip
    training = partial(
        generator.learning.learn_concept, backbone, examples, prior, settings, **training_of(build, "dreambooth")
    )
    minutes = _timed(build.workdir / "dreambooth.minutes", settings.steps, training)
    return Made(_from_noise(build, crops, backbone, prompt), settings.steps, minutes)


def _stablesdg(build: Build, crops: list[Crop]) -> Made:
    """What the second system has painted; its minutes are those of both trainings and of the tuning."""
    settings, stages = build.settings.stablesdg, (token_embedding, lora_weights, strength_and_guidance)
    images = read_generated(build.read(stablesdg_images))
    return Made(images, settings.token_steps + settings.steps, sum(_minutes_of(build, one) for one in stages))


def _from_noise(build: Build, crops: list[Crop], backbone: Backbone, prompt: str) -> list[np.ndarray]:
    """All from noise, with the guidance of the class."""
    guidance = build.read(strength_and_guidance).load(Tuned).chosen.guidance
    return paint(build, crops, backbone, Choice(1.0, guidance), prompt)


# --- Shared --------------------------------------------------------------------------------------------------------


def _unchanged(build: Build, crops: list[Crop]) -> Made:
    return Made(in_turn([crop.image for crop in crops], build.settings.stablesdg.images), 0, 0.0)


def _timed(file: Path, steps: int, training: Callable[[], Sized]) -> float:
    """Minutes that ``steps`` steps of a training take, at the pace of the process that ended it.

    ``training`` returns something for each step that it takes itself: nothing where an earlier process had ended it,
    whose minutes then stand in the file.
    """
    began = time.perf_counter()
    if taken := len(training()):
        atomic_write(file, str((time.perf_counter() - began) / 60 / taken * steps).encode())
    try:
        return float(file.read_text())
    except (FileNotFoundError, ValueError):  # none, or damaged: a figure is lost, no work
        return float("nan")


def _minutes_of(build: Build, made: Stage) -> float:
    return build.read(made).seconds / 60


GENERATORS: dict[str, Callable[[Build, list[Crop]], Made]] = {
    "DCGAN": _dcgan,
    "DDIM from scratch": _ddim,
    "textual inversion": _textual_inversion,
    "DreamBooth": _dreambooth,
    "StableSDG": _stablesdg,
    UNCHANGED: _unchanged,
}
