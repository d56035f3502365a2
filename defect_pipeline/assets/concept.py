"""The component's look: DreamBooth with class-prior preservation on the annotated images (paper A §3.1)."""

from __future__ import annotations

import numpy as np

from defect_pipeline import diffusion, generator
from defect_pipeline.assets.drivers import TRAINING, read_training
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.generator.learning import Training
from defect_pipeline.generator.loading import load_untouched
from defect_pipeline.generator.prompts import concept_prompt, prior_prompt
from defect_pipeline.imaging.sheets import contact_sheet, curve
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.resumable import Curve

PREVIEWS = 12
LOADED = ("backbone", "precision")  # settings of whatever loads a backbone
SAMPLED = ("drivers.size", "synthesis.steps", "synthesis.batch", "synthesis.guidance")  # and of images from noise


def concept_weights(drivers: Stage) -> Stage:
    """The stage that learns the component from the training crops of its drivers."""

    @stage(
        name="concept_weights",
        parents=(inspection_images, drivers),
        settings=("concept", "optimizer", *LOADED, *SAMPLED),
        images=Subset(splits=()),
        group="generator",
        kinds={"torch", "diffusers"},
        gpu=True,
        reads={drivers: TRAINING},
    )
    def make(build: Build) -> None:
        """A U-Net that has learned the component: "an image of a [V]", without forgetting what its class looks like."""
        settings, synthesis, size = build.settings.concept, build.settings.synthesis, build.settings.drivers.size
        backbone = load_untouched(build.settings)
        crops = read_training({k: build.read(drivers, k).path for k in build.classes})
        instance = concept_prompt(settings.token)
        examples = diffusion.adapters.Examples.of(
            backbone, crops.images, crops.drivers, crops.masks, [instance] * len(crops.classes)
        )
        prior = generator.painting.prior_latents(
            backbone, prior_prompt(settings.class_noun), settings.prior_images, size, build.workdir / "prior.safetensors",
            synthesis=synthesis, progress=build.progress,
        )  # fmt: skip

        def preview() -> list[np.ndarray]:
            return generator.painting.preview(
                backbone, [instance] * PREVIEWS, size,
                steps=synthesis.steps, batch=synthesis.batch, guidance=synthesis.guidance,
            )  # fmt: skip

        before = preview()
        losses = generator.learning.learn_concept(backbone, examples, prior, settings, **training_of(build))
        describe_training(build, losses, settings.steps)
        after = preview()
        backbone.unet.half().save_pretrained(build.path / "unet")
        build.metadata |= {"training crops": len(crops.classes), "prior images": len(prior), "prompt": instance}
        captions = ["before"] * PREVIEWS + ["after"] * PREVIEWS
        build.picture("concept", contact_sheet([*before, *after], captions, columns=6))

    return make


def training_of(build: Build, name: str = "checkpoint") -> Training:
    """How a build trains: by its seed, with a checkpoint in its work directory, where ``name`` tells one training of it
    from another."""
    return {
        "seed": build.seed,
        "optimizer": build.settings.optimizer,
        "checkpoint": build.workdir / f"{name}.safetensors",
        "progress": build.progress,
    }


def describe_training(build: Build, losses: Curve, steps: int) -> None:
    """The loss and its curve, of the steps since this process began."""
    build.metadata["steps"] = steps
    if losses:
        build.metadata["loss"] = float(np.mean([loss for _, loss in losses[-20:]]))
        build.picture("loss", curve({"loss": losses}, build.stage.name, "step", "loss"))
