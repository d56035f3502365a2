"""Mask control for the second system: the first system's hypernetwork on top of a class's token and adapters."""

from defect_pipeline.assets.concept import LOADED, SAMPLED
from defect_pipeline.assets.drivers import TRAINING, read_training
from defect_pipeline.assets.hypernetwork import make_hypernetwork
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import load_adapted, lora_weights, token_embedding
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.imaging.subsets import Subset


def union_weights(drivers: Stage) -> Stage:
    """The stage that learns to steer a class's adapted backbone by drivers."""

    @stage(
        name="union_weights",
        parents=(inspection_images, drivers, token_embedding, lora_weights),
        settings=("hypernetwork", "optimizer", "stablesdg.prompt", "synthesis.defect_guidance", *LOADED, *SAMPLED),
        images=Subset(splits=()),
        group="union",
        kinds={"torch", "diffusers"},
        partitioned=True,
        gpu=True,
        reads={drivers: TRAINING},
    )
    def make(build: Build) -> None:
        """A hypernetwork of the class, trained by drivers under the frozen backbone with the class's token and adapters.

        Adapters are a class's own, so the U-Net that the hypernetwork steers, and of which it begins as a copy, is too. The
        prompt is the token's, with and without a defect in the driver: the driver alone says where one stands.
        """
        prompt = build.settings.stablesdg.prompt
        crops = read_training({build.defect_class: build.read(drivers).path})
        make_hypernetwork(build, load_adapted(build), crops, {build.defect_class: prompt}, prompt)

    return make
