"""What a class looks like, in two stages (paper B §3.1, §3.2): a token's embedding, then low-rank adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import diffusion, generator
from defect_pipeline.assets.concept import LOADED, describe_training, training_of
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.generator.canvases import image_seed
from defect_pipeline.generator.loading import EMBEDDING, load_untouched
from defect_pipeline.imaging.crops import Crop, class_windows
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.profiles import Profile

if TYPE_CHECKING:
    from torch import Tensor

    from defect_pipeline.diffusion.backbone import Backbone
    from defect_pipeline.generator.painting import OnBatch

PREVIEWS = 6
OWN_TRAIN = Subset(("train",), "own class", "shown")
LEARNED = (  # settings of both trainings and of their previews
    "stablesdg.prompt", "stablesdg.batch", "stablesdg.solver_steps", "optimizer", "drivers.size", *LOADED,
)  # fmt: skip
PAINTED = (  # of `image_oriented`
    "stablesdg.prompt", "stablesdg.solver_steps", "synthesis.batch", "drivers.size", *LOADED,
)  # fmt: skip


@stage(
    parents=(inspection_images,),
    settings=("stablesdg.like", "stablesdg.token_steps", "stablesdg.token_learning_rate", *LEARNED),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def token_embedding(build: Build) -> None:
    """A word for the class: one row of the vocabulary learns, nothing else (paper B, stage 1)."""
    settings, backbone = build.settings.stablesdg, load_untouched(build.settings)
    crops = train_windows(build)
    latents = encoded(backbone, crops)
    before = preview(backbone, settings.prompt.replace(diffusion.token.TOKEN, settings.like), build.settings)
    losses = generator.learning.learn_token(backbone, latents, settings.prompt, settings, **training_of(build))
    diffusion.token.save_token(backbone, build.path / EMBEDDING)
    describe_training(build, losses, settings.token_steps)
    build.metadata |= {"train images": len(latents), "prompt": settings.prompt}
    build.picture("all from noise", _sheet(crops, before, preview(backbone, settings.prompt, build.settings)))


@stage(
    parents=(inspection_images, token_embedding),
    settings=("stablesdg.rank", "stablesdg.steps", "stablesdg.learning_rate", *LEARNED),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers", "peft"},
    partitioned=True,
    gpu=True,
)
def lora_weights(build: Build) -> None:
    """Low-rank adapters on every attention layer, the token frozen (paper B, stage 2).

    What the embedded U-Net does in closed form beside its layers, `GaussianDenoiser`, is fitted to the class as well.
    """
    settings, backbone = build.settings.stablesdg, load_untouched(build.settings)
    diffusion.token.load_token(backbone, build.read(token_embedding).path / EMBEDDING)
    crops = train_windows(build)
    latents, before = encoded(backbone, crops), preview(backbone, settings.prompt, build.settings)
    trainable, losses = generator.learning.learn_adapters(
        backbone, latents, settings.prompt, settings, **training_of(build)
    )
    backbone.save_linear(build.path)
    diffusion.lora.save_lora(backbone, build.path)
    describe_training(build, losses, settings.steps)
    build.metadata |= {"train images": len(latents), "rank": settings.rank, "parameters": trainable}
    build.picture("all from noise", _sheet(crops, before, preview(backbone, settings.prompt, build.settings)))


def load_adapted(build: Build) -> Backbone:
    """The backbone with the class's token and adapters."""
    token, adapters = build.read(token_embedding).path, build.read(lora_weights).path
    return generator.loading.load_adapted(build.settings, token, adapters)


def train_windows(build: Build) -> list[Crop]:
    """The class's train images, whole, as squares: what it is learned from, and painted from."""
    return class_windows(build.dataset, build.defect_class, ("train",), build.settings.drivers.size)


def preview(backbone: Backbone, prompt: str, profile: Profile) -> list[np.ndarray]:
    """PREVIEWS images of what the prompt alone paints, from seeds that stay the same."""
    return generator.painting.preview(
        backbone, [prompt] * PREVIEWS, profile.drivers.size,
        steps=profile.stablesdg.solver_steps, batch=PREVIEWS, guidance=1.0,
    )  # fmt: skip


def image_oriented(
    build: Build,
    backbone: Backbone,
    sources: Sequence[np.ndarray],
    names: Sequence[str],
    strength: float,
    guidance: float,
    *,
    prompt: str | None = None,
    on_batch: OnBatch = lambda *_: None,
) -> np.ndarray:
    """Images (n, S, S, 3) uint8 of the class, each from its source, by the profile's solver and prompt.

    An image of one name has the same noise whatever its strength, so candidates differ in nothing else.
    """
    settings, seed = build.settings.stablesdg, build.seed
    return generator.painting.image_oriented(
        backbone, sources, [image_seed(seed, build.defect_class, f"stablesdg/{name}") for name in names],
        prompt=prompt or settings.prompt, strength=strength, guidance=guidance, steps=settings.solver_steps,
        batch=build.settings.synthesis.batch, on_batch=on_batch,
    )  # fmt: skip


def encoded(backbone: Backbone, crops: Sequence[Crop]) -> Tensor:
    """Latents (n, C, h, w) of the crops' images."""
    return backbone.encode_pixels(np.stack([crop.image for crop in crops]))


def _sheet(crops: Sequence[Crop], before: list[np.ndarray], after: list[np.ndarray]) -> np.ndarray:
    """Real images above what was painted before and after a training."""
    real = [crop.image for crop in crops[:PREVIEWS]]
    captions = [name for name, row in (("real", real), ("before", before), ("after", after)) for _ in row]
    blank = [np.full_like(after[0], 255)] * (PREVIEWS - len(real))
    captions[len(real) : len(real)] = [""] * len(blank)
    return contact_sheet([*real, *blank, *before, *after], captions, columns=PREVIEWS)
