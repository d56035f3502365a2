"""Image-oriented generation (paper B §3.3) with mask control (paper A §3.2): what paper B names as future work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import diffusion
from defect_pipeline.assets.faithfulness import report_twins
from defect_pipeline.assets.hypernetwork import steering
from defect_pipeline.assets.stablesdg.adapt import load_adapted, painted_with
from defect_pipeline.assets.stablesdg.tune import Choice
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.assets.synthesis import Canvases, Painter, fill_set, in_batches, strengths
from defect_pipeline.assets.union.canvases import OWN
from defect_pipeline.assets.union.places import INSTEAD
from defect_pipeline.imaging.drivers import without_defects
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from defect_pipeline.diffusion.backbone import Backbone

PAINTED_FROM = (
    "inspection_images", "union_canvases", "union_drivers", "token_embedding", "lora_weights", "strength_and_guidance",
    "union_weights",
)  # fmt: skip


def _settings(pipeline: Pipeline) -> tuple:
    return (pipeline.settings.synthesis, pipeline.settings.stablesdg.prompt, *painted_with(pipeline))


@stage(
    parents=PAINTED_FROM, settings=_settings, images=Subset(splits=()), group="union", kinds={"torch", "diffusers"},
    partitioned=True, gpu=True, instead=INSTEAD,
)  # fmt: skip
def union_images(build: Build) -> None:
    """Synthetic images of one class, each from a noised picture, its masks being the ones it was asked for."""
    fill_set(build, load_painter)


@stage(
    parents=(*PAINTED_FROM, "union_images"), settings=_settings, images=Subset(splits=()), group="union", kinds={"torch", "diffusers"},
    partitioned=True, gpu=True, instead=INSTEAD,
)  # fmt: skip
def union_faithfulness_report(build: Build) -> None:
    """Whether each defect stands in its mask: change against its twin, painted from the same noise without the mask."""
    report_twins(build, load_painter)


def load_painter(build: Build) -> Painter:
    """The class's adapted backbone and its hypernetwork."""
    backbone = load_adapted(build)
    hypernetwork = backbone.load_hypernetwork(build.parent("union_weights").path / "controlnet")
    chosen, own = Choice.read(build.parent("strength_and_guidance").path), build.parent("union_canvases").metadata[OWN]
    sampled = partial(_sampled, build, backbone, hypernetwork, chosen, own)
    return partial(in_batches, build, sampled, build.settings.synthesis.transfer and not own)


def _sampled(
    build: Build,
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    chosen: Choice,
    own: bool,
    canvases: Canvases,
    seeds: Sequence[int],
    defects: bool,
) -> np.ndarray:
    """One batch (n, S, S, 3) uint8: the backgrounds noised to T' = s T, s being the class's strength, and painted anew.

    On a defect-free picture, what the masks cover is painted from noise: T' keeps what the source shows, and that is no
    defect. (Noised to half of T everywhere, the sample's pictures change by 6 grey levels under the masks of cracks; to
    0.8 of it, by 23; from noise, by 89.) A picture with its ``own`` defects is noised to T' as a whole, but for its twin,
    which has to forget them.
    """
    settings, prompt = build.settings, build.settings.stablesdg.prompt
    drivers = canvases.drivers if defects else without_defects(canvases.drivers)
    steered = steering(build, hypernetwork, drivers, prompt, guidance=chosen.guidance, guided=defects)
    latents = diffusion.sampling.sample_images(
        backbone, [prompt] * len(seeds), seeds, drivers.shape[1],
        steps=settings.stablesdg.solver_steps, batch=settings.synthesis.batch,
        sources=backbone.encode_pixels(canvases.backgrounds),
        strength=chosen.strength if own and defects else strengths(build, backbone, canvases, chosen.strength),
        **steered,
    )  # fmt: skip
    return backbone.decode(latents).numpy()
