"""The condition: a hypernetwork steers the frozen concept model by drivers (paper A §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from defect_pipeline import diffusion
from defect_pipeline.assets.concept import concept_prompt, describe_training, load_concept, preview, sampler, train
from defect_pipeline.assets.drivers import TRAINING, TrainingCrops, read_training
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.imaging.drivers import without_defects
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from defect_pipeline.diffusion.adapters import Examples
    from defect_pipeline.diffusion.backbone import Backbone


@stage(
    parents=("inspection_images", "topological_drivers", "concept_weights"),
    settings=lambda pipeline: (pipeline.settings.hypernetwork, *sampler(pipeline)),
    images=Subset(splits=()),
    group="generator",
    kinds={"torch", "diffusers"},
    gpu=True,
    reads={"topological_drivers": TRAINING},
)
def hypernetwork_weights(build: Build) -> None:
    """A trainable copy of the concept's encoder that paints defects where a driver says, in the class it names."""
    words = {k: condition_prompt(build, k) for k in build.classes()}
    make_hypernetwork(build, load_concept(build), words, concept_prompt(build))


def make_hypernetwork(build: Build, backbone: Backbone, words: Mapping[str, str], plain: str) -> None:
    """Fill the artifact with a hypernetwork trained under the frozen backbone on the classes of ``words``.

    ``words`` are the prompts of their defects, ``plain`` is that of the surface without one.
    """
    settings = build.settings.hypernetwork
    crops = read_training({k: build.parent("topological_drivers", k).path for k in words})
    examples = diffusion.adapters.Examples.of(
        backbone, crops.images, crops.drivers, crops.masks, [words[k] for k in crops.classes]
    )
    hypernetwork = backbone.new_hypernetwork(settings.init, build.pipeline.seed)
    watched = _Watched(build, backbone, hypernetwork, crops, words, plain)
    losses = learn_condition(build, backbone, hypernetwork, examples, settings.steps, watch=watched)
    describe_training(build, losses, settings.steps)
    watched.show("final")
    hypernetwork.half().save_pretrained(build.path / "controlnet")
    build.metadata |= {"training crops": len(crops.classes), "init": settings.init}
    build.picture(
        "fixed drivers over steps", contact_sheet(watched.pictures, watched.captions, columns=watched.columns)
    )


def learn_condition(
    build: Build, backbone: Backbone, hypernetwork: ControlNetModel, examples: Examples, steps: int, **training: Any
) -> list[tuple[float, float]]:
    """Train the hypernetwork in place under the frozen backbone; ``training`` and what is returned as in `train`."""
    settings = build.settings.hypernetwork
    hypernetwork.requires_grad_(True).train()
    loss_at = diffusion.adapters.hypernetwork_loss(
        backbone, hypernetwork, examples, batch=settings.batch, mask_weight=settings.mask_weight,
        text_dropout=settings.text_dropout, window=settings.window,
    )  # fmt: skip
    losses = train(build, list(hypernetwork.parameters()), loss_at, steps, settings.learning_rate, **training)
    hypernetwork.requires_grad_(False).eval()
    return losses


def condition_prompt(build: Build, defect_class: str) -> str:
    """The paper's "an image of a [V] with a [class] crack"; "defect" stands for what not every component cracks."""
    return f"an image of a {build.settings.concept.token} with a {defect_class} defect"


def steering(
    build: Build,
    hypernetwork: ControlNetModel,
    drivers: np.ndarray,
    plain: str,
    *,
    guidance: float | None = None,
    guided: bool = True,
) -> dict[str, Any]:
    """How drivers (n, S, S, 3) uint8 steer `sample_images`: by themselves and, ``guided``, away from the defect-free
    component, which the prompt ``plain`` names. A driver without a defect has nothing to be led away from.

    Where the profile does not guide in this way, ``guidance``, by default its own, leads away from the empty prompt.
    """
    synthesis = build.settings.synthesis
    steered: dict[str, Any] = {"hypernetwork": hypernetwork, "drivers": diffusion.sampling.conditions(drivers)}
    if synthesis.defect_guidance == 1:
        return steered | {"guidance": synthesis.guidance if guidance is None else guidance}
    if not guided:
        return steered | {"guidance": 1.0}
    without = plain, diffusion.sampling.conditions(without_defects(drivers))
    return steered | {"guidance": synthesis.defect_guidance, "without": without}


class _Watched:
    """A fixed-driver grid, two of each class, turned upside down: the loss does not show when a hypernetwork begins to
    obey, pictures do."""

    def __init__(
        self,
        build: Build,
        backbone: Backbone,
        hypernetwork: ControlNetModel,
        crops: TrainingCrops,
        words: Mapping[str, str],
        plain: str,
    ) -> None:
        self.build, self.backbone, self.hypernetwork, self.plain = build, backbone, hypernetwork, plain
        first = [i for k in words for i in np.flatnonzero(np.array(crops.classes) == k)[:2]]
        self.prompts = [words[crops.classes[i]] for i in first]
        self.drivers = np.ascontiguousarray(crops.drivers[first, ::-1])
        self.columns = len(first)
        self.pictures, self.captions = list(self.drivers), ["driver"] * self.columns
        self.show("start")

    def __call__(self, step: int) -> None:
        if step == self.build.settings.hypernetwork.steps // 2:
            self.show(f"step {step}")

    def show(self, caption: str) -> None:
        self.hypernetwork.eval()
        size = self.build.settings.drivers.size
        steered = steering(self.build, self.hypernetwork, self.drivers, self.plain)
        self.pictures += preview(self.backbone, self.prompts, self.build, size, **steered)
        self.captions += [caption] * self.columns
        self.hypernetwork.train()
