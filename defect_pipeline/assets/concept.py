"""The component's look: DreamBooth with class-prior preservation on the annotated images (paper A §3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import diffusion
from defect_pipeline.assets.drivers import TRAINING, read_training
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.checkpoints import load_weights, read_tensors, write_tensors
from defect_pipeline.files import directory_digest
from defect_pipeline.imaging.sheets import contact_sheet, curve
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from torch import Tensor

    from defect_pipeline.diffusion.adapters import Examples, LossAt
    from defect_pipeline.diffusion.backbone import Backbone

PRIOR_SEED, PREVIEW_SEED = 10_000_000, 20_000_000  # apart from every seed of a synthetic image


def sampler(pipeline: Pipeline) -> tuple[int, float, str]:
    """What prior images and previews depend on beside the weights: solver steps, guidance, precision."""
    synthesis = pipeline.settings.synthesis
    return synthesis.steps, synthesis.guidance, pipeline.settings.precision


def backbone_of(pipeline: Pipeline) -> str:
    """The digest of the profile's backbone: a model's name says nothing about its weights."""
    directory = Path(pipeline.settings.backbone)
    return directory_digest(directory) if directory.is_dir() else f"missing {directory}"


@stage(
    parents=("inspection_images", "topological_drivers"),
    settings=lambda pipeline: (pipeline.settings.concept, *sampler(pipeline), backbone_of(pipeline)),
    images=Subset(splits=()),
    group="generator",
    kinds={"torch", "diffusers"},
    gpu=True,
    reads={"topological_drivers": TRAINING},
)
def concept_weights(build: Build) -> None:
    """A U-Net that has learned the component: "an image of a [V]", without forgetting what its class looks like."""
    settings, size = build.settings.concept, build.settings.drivers.size
    backbone = load_untouched(build)
    crops = read_training({k: build.parent("topological_drivers", k).path for k in build.classes()})
    instance = concept_prompt(build)
    examples = diffusion.adapters.Examples.of(
        backbone, crops.images, crops.drivers, crops.masks, [instance] * len(crops.classes)
    )
    prior = prior_latents(build, backbone)
    before = preview(backbone, [instance] * 12, build, size)

    describe_training(build, learn_concept(build, backbone, examples, prior), settings.steps)
    after = preview(backbone, [instance] * 12, build, size)
    backbone.unet.half().save_pretrained(build.path / "unet")
    build.metadata |= {"training crops": len(crops.classes), "prior images": len(prior), "prompt": instance}
    build.picture("concept", contact_sheet([*before, *after], ["before"] * 12 + ["after"] * 12, columns=6))


def learn_concept(
    build: Build,
    backbone: Backbone,
    examples: Examples,
    prior: Tensor,
    *,
    name: str = "checkpoint",
    seed: int | None = None,
) -> list[tuple[float, float]]:
    """Train the backbone's U-Net in place on examples and prior latents; (step, loss) as `train` returns it."""
    settings = build.settings.concept
    if isinstance(backbone.unet, diffusion.unet.SkipUNet):  # what is linear about the component needs no training
        backbone.unet.linear.fit(examples.latents, backbone.noising.alphas_cumprod)
    parameters = list(backbone.unet.requires_grad_(True).train().parameters())
    loss_at = diffusion.adapters.concept_loss(
        backbone, examples, prior, concept_prompt(build), prior_prompt(build), prior_weight=settings.prior_weight,
        batch=settings.batch, prior_batch=settings.prior_batch, window=settings.window,
    )  # fmt: skip
    losses = train(build, parameters, loss_at, settings.steps, settings.learning_rate, name=name, seed=seed)
    backbone.unet.requires_grad_(False).eval()
    return losses


def concept_prompt(build: Build) -> str:
    return f"an image of a {build.settings.concept.token}"


def prior_prompt(build: Build) -> str:
    return f"an image of a {build.settings.concept.class_noun}"


def load_untouched(build: Build) -> Backbone:
    """The profile's backbone as it is."""
    settings = build.settings
    return diffusion.backbone.load_backbone(
        Path(settings.backbone), settings.device, settings.precision, compiled=settings.compiled
    )


def load_concept(build: Build) -> Backbone:
    """The profile's backbone with the concept's U-Net in place of its own."""
    backbone = load_untouched(build)
    path = build.parent("concept_weights").path / "unet"
    load_weights(backbone.unet, path / "diffusion_pytorch_model.safetensors")
    return backbone


def train(
    build: Build,
    parameters: list,
    loss_at: LossAt,
    steps: int,
    learning_rate: float,
    *,
    name: str = "checkpoint",
    seed: int | None = None,
    watch: Callable[[int], None] = lambda step: None,
) -> list[tuple[float, float]]:
    """Run the training loop with checkpoints in the work directory and progress in the log; (step, loss) of each step.

    ``name`` tells one training of a build from another; ``seed`` is the pipeline's unless given. ``watch(step)`` is
    called after every step, for previews.
    """
    checkpoint = diffusion.training.Checkpoint(build.workdir / f"{name}.safetensors", every=max(10, steps // 20))
    losses: list[tuple[int, Tensor]] = []
    loop = diffusion.training.training_loop(
        parameters, loss_at, steps=steps, learning_rate=learning_rate,
        seed=build.pipeline.seed if seed is None else seed,
        warmup=max(1, steps // 20), decay=0.3, ema=0.98, checkpoint=checkpoint,
    )  # fmt: skip
    for state in loop:
        losses.append((state.step, state.loss))
        watch(state.step)
        if state.step % 10 == 0 or state.step == steps:  # the only sync point of the loop
            recent = diffusion.training.mean([loss for _, loss in losses[-10:]])
            build.progress(state.step, steps, loss=recent, images_per_second=state.images / state.seconds)
    return [(step, loss.item()) for step, loss in losses]


def describe_training(build: Build, losses: list[tuple[float, float]], steps: int) -> None:
    """The loss and its curve, of the steps since this process began."""
    build.metadata["steps"] = steps
    if losses:
        build.metadata["loss"] = float(np.mean([loss for _, loss in losses[-20:]]))
        build.picture("loss", curve({"loss": losses}, build.stage.name, "step", "loss"))


def preview(backbone: Backbone, prompts: list[str], build: Build, size: int, **steering) -> list[np.ndarray]:
    """One image for each prompt, from seeds that stay the same from run to run."""
    return sampled(backbone, prompts, range(PREVIEW_SEED, PREVIEW_SEED + len(prompts)), build, size, **steering)


def sampled(
    backbone: Backbone, prompts: list[str], seeds: Sequence[int], build: Build, size: int, **steering
) -> list[np.ndarray]:
    """One image (size, size, 3) uint8 for each prompt and seed, all from noise."""
    synthesis = build.settings.synthesis
    latents = diffusion.sampling.sample_images(
        backbone, prompts, seeds, size,
        steps=synthesis.steps, batch=synthesis.batch, **({"guidance": synthesis.guidance} | steering),
    )  # fmt: skip
    return list(backbone.decode(latents).numpy())


def prior_latents(build: Build, backbone: Backbone) -> Tensor:
    """Latents that the untouched model samples for the class; kept in the work directory over a kill."""
    file, n = build.workdir / "prior.safetensors", build.settings.concept.prior_images
    synthesis, size = build.settings.synthesis, build.settings.drivers.size
    if kept := read_tensors(file):
        return kept["latents"].to(backbone.device)
    latents = diffusion.sampling.sample_images(
        backbone, [prior_prompt(build)] * n, range(PRIOR_SEED, PRIOR_SEED + n), size,
        steps=synthesis.steps, guidance=synthesis.guidance, batch=synthesis.batch,
        on_batch=lambda start, z: build.progress(start + len(z), n),
    )  # fmt: skip
    write_tensors(file, {"latents": latents})
    return latents
