"""The condition: a hypernetwork steers the frozen concept model by drivers (paper A §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import diffusion, generator
from defect_pipeline.assets.concept import LOADED, SAMPLED, describe_training, training_of
from defect_pipeline.assets.drivers import TRAINING, TrainingCrops, read_training
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.generator.prompts import concept_prompt, condition_prompt
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from defect_pipeline.diffusion.backbone import Backbone

WATCHED = 2  # drivers of each class


def hypernetwork_weights(drivers: Stage, concept: Stage) -> Stage:
    """The stage that learns to steer the frozen concept by drivers."""

    @stage(
        name="hypernetwork_weights",
        parents=(inspection_images, drivers, concept),
        settings=("hypernetwork", "optimizer", "concept.token", "synthesis.defect_guidance", *LOADED, *SAMPLED),
        images=Subset(splits=()),
        group="generator",
        kinds={"torch", "diffusers"},
        gpu=True,
        reads={drivers: TRAINING},
    )
    def make(build: Build) -> None:
        """A trainable copy of the concept's encoder that paints defects where a driver says, in the class it names."""
        token = build.settings.concept.token
        backbone = generator.loading.load_concept(build.settings, build.read(concept).path / "unet")
        words = {k: condition_prompt(token, k) for k in build.classes}
        crops = read_training({k: build.read(drivers, k).path for k in words})
        make_hypernetwork(build, backbone, crops, words, concept_prompt(token))

    return make


def make_hypernetwork(
    build: Build, backbone: Backbone, crops: TrainingCrops, words: Mapping[str, str], plain: str
) -> None:
    """Fill the artifact with a hypernetwork trained under the frozen backbone on the crops of the classes of ``words``.

    ``words`` are the prompts of their defects, ``plain`` is that of the surface without one.
    """
    settings = build.settings.hypernetwork
    examples = diffusion.adapters.Examples.of(
        backbone, crops.images, crops.drivers, crops.masks, [words[k] for k in crops.classes]
    )
    hypernetwork = backbone.new_hypernetwork(settings.init, build.seed)
    shown = [i for k in words for i in np.flatnonzero(np.array(crops.classes) == k)[:WATCHED]]
    turned = np.ascontiguousarray(crops.drivers[shown, ::-1])  # upside down, as no training driver is
    watched = generator.watching.FixedDrivers(
        backbone, hypernetwork, turned, [words[crops.classes[i]] for i in shown], plain,
        synthesis=build.settings.synthesis, half=settings.steps // 2,
    )  # fmt: skip
    losses = generator.learning.learn_condition(
        backbone, hypernetwork, examples, settings, watch=watched, **training_of(build)
    )
    describe_training(build, losses, settings.steps)
    watched.show("final")
    hypernetwork.half().save_pretrained(build.path / "controlnet")
    build.metadata |= {"training crops": len(crops.classes), "init": settings.init}
    build.picture("fixed drivers over steps", contact_sheet(watched.pictures, watched.captions, columns=len(shown)))
