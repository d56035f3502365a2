"""Mask control for the second system: the first system's hypernetwork on top of a class's token and adapters."""

from defect_pipeline.assets.concept import sampler
from defect_pipeline.assets.drivers import TRAINING
from defect_pipeline.assets.hypernetwork import make_hypernetwork
from defect_pipeline.assets.stablesdg.adapt import load_adapted
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.union.places import INSTEAD
from defect_pipeline.imaging.subsets import Subset


@stage(
    parents=("inspection_images", "union_drivers", "token_embedding", "lora_weights"),
    settings=lambda pipeline: (
        pipeline.settings.hypernetwork, pipeline.settings.stablesdg.prompt, *sampler(pipeline)
    ),
    images=Subset(splits=()),
    group="union",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
    instead=INSTEAD,
    reads={"union_drivers": TRAINING},
)  # fmt: skip
def union_weights(build: Build) -> None:
    """A hypernetwork of the class, trained by drivers under the frozen backbone with the class's token and adapters.

    Adapters are a class's own, so the U-Net that the hypernetwork steers, and of which it begins as a copy, is too. The
    prompt is the token's, with and without a defect in the driver: the driver alone says where one stands.
    """
    prompt = build.settings.stablesdg.prompt
    make_hypernetwork(build, load_adapted(build), {build.defect_class: prompt}, prompt)
