"""What a class looks like, in two stages (paper B §3.1, §3.2): a token's embedding, then low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline import diffusion
from defect_pipeline.assets.concept import backbone_of, describe_training, load_untouched, train
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.assets.synthesis import image_seed
from defect_pipeline.checkpoints import load_weights, save_weights
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.crops import Crop, windows
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from torch import Tensor

    from defect_pipeline.diffusion.backbone import Backbone

EMBEDDING = "learned_embeds.safetensors"  # the name that diffusers looks for
LINEAR = "linear.safetensors"
PREVIEWS, PREVIEW_SEED = 6, 20_000_000
OWN_TRAIN = Subset(("train",), "own class", "shown")


def _sampled_with(pipeline: Pipeline) -> tuple:
    """What trainings and their previews depend on beside their own settings."""
    settings = pipeline.settings
    return settings.drivers.size, settings.precision, settings.stablesdg.solver_steps, backbone_of(pipeline)


@stage(
    parents=("inspection_images",),
    settings=lambda pipeline: (
        pipeline.settings.stablesdg.prompt, pipeline.settings.stablesdg.like, pipeline.settings.stablesdg.token_steps,
        pipeline.settings.stablesdg.token_learning_rate, pipeline.settings.stablesdg.batch, *_sampled_with(pipeline),
    ),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def token_embedding(build: Build) -> None:
    """A word for the class: one row of the vocabulary learns, nothing else (paper B, stage 1)."""
    settings, backbone = build.settings.stablesdg, load_untouched(build)
    latents = train_latents(build, backbone)
    before = preview(build, backbone, settings.prompt.replace(diffusion.token.TOKEN, settings.like))
    losses = learn_token(build, backbone, latents, settings.prompt)
    diffusion.token.save_token(backbone, build.path / EMBEDDING)
    describe_training(build, losses, settings.token_steps)
    build.metadata |= {"train images": len(latents), "prompt": settings.prompt}
    _show(build, before, preview(build, backbone))


@stage(
    parents=("inspection_images", "token_embedding"),
    settings=lambda pipeline: (
        pipeline.settings.stablesdg.prompt, pipeline.settings.stablesdg.rank, pipeline.settings.stablesdg.steps,
        pipeline.settings.stablesdg.learning_rate, pipeline.settings.stablesdg.batch, *_sampled_with(pipeline),
    ),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers", "peft"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def lora_weights(build: Build) -> None:
    """Low-rank adapters on every attention layer, the token frozen (paper B, stage 2).

    What the embedded U-Net does in closed form beside its layers, `GaussianDenoiser`, is fitted to the class as well.
    """
    settings, backbone = build.settings.stablesdg, load_untouched(build)
    diffusion.token.load_token(backbone, build.parent("token_embedding").path / EMBEDDING)
    latents, before = train_latents(build, backbone), preview(build, backbone)
    trainable, losses = learn_adapters(build, backbone, latents, settings.prompt)
    if isinstance(backbone.unet, diffusion.unet.SkipUNet):
        save_weights(backbone.unet.linear, build.path / LINEAR)
    diffusion.lora.save_lora(backbone, build.path)
    describe_training(build, losses, settings.steps)
    build.metadata |= {"train images": len(latents), "rank": settings.rank, "parameters": trainable}
    _show(build, before, preview(build, backbone))


def learn_token(
    build: Build, backbone: Backbone, latents: Tensor, prompt: str, *, name: str = "checkpoint"
) -> list[tuple[float, float]]:
    """Give the backbone's vocabulary the token and train its embedding on the latents; the loss curve."""
    settings = build.settings.stablesdg
    with diffusion.token.learnable_token(backbone, settings.like) as row:
        loss_at = diffusion.adapters.prompted_loss(backbone, latents, prompt, batch=settings.batch)
        return train(build, [row], loss_at, settings.token_steps, settings.token_learning_rate, name=name)


def learn_adapters(
    build: Build, backbone: Backbone, latents: Tensor, prompt: str, *, name: str = "checkpoint"
) -> tuple[int, list[tuple[float, float]]]:
    """Give the backbone adapters and train them on the latents; how many numbers learned, and the loss curve."""
    settings = build.settings.stablesdg
    fit_linear(backbone, latents)
    trainable = diffusion.lora.add_lora(backbone, settings.rank, build.pipeline.seed)
    loss_at = diffusion.adapters.prompted_loss(backbone, latents, prompt, batch=settings.batch)
    losses = train(build, trainable, loss_at, settings.steps, settings.learning_rate, name=name)
    return sum(p.numel() for p in trainable), losses


def fit_linear(backbone: Backbone, latents: Tensor) -> None:
    """Fit what the embedded U-Net does in closed form to the latents; other backbones have no such part."""
    if isinstance(backbone.unet, diffusion.unet.SkipUNet):
        backbone.unet.linear.fit(latents, backbone.noising.alphas_cumprod)


def load_adapted(build: Build) -> Backbone:
    """The backbone with the class's token and adapters."""
    backbone = load_untouched(build)
    diffusion.token.load_token(backbone, build.parent("token_embedding").path / EMBEDDING)
    adapters = build.parent("lora_weights").path
    if (adapters / LINEAR).exists() and isinstance(backbone.unet, diffusion.unet.SkipUNet):
        load_weights(backbone.unet.linear, adapters / LINEAR)
    diffusion.lora.load_lora(backbone, adapters)
    return backbone


def class_windows(build: Build, splits: Sequence[str], defect_class: str | None = None) -> list[Crop]:
    """The images of a class, by default the build's, in these splits, whole, as squares that show a defect of it.

    Raises PipelineError where there is none.
    """
    dataset, k = build.dataset(), defect_class or build.defect_class
    ids = [i for i in dataset.of_class(k) if dataset.images.at[i, "split"] in splits]
    found = [crop for i in ids for crop in windows(dataset, i, build.settings.drivers.size)]
    found = [crop for crop in found if any(name == k for name, _ in crop.masks)]
    if not found:
        raise PipelineError(
            f"Class {k!r} has no image with a visible defect in {' and '.join(splits)} of {dataset.root}: add images of "
            "it, or take the class out."
        )
    return found


def preview(build: Build, backbone: Backbone, prompt: str | None = None) -> list[np.ndarray]:
    """What the prompt alone paints, the class's own unless another is given, from seeds that stay the same."""
    settings = build.settings.stablesdg
    seeds = range(PREVIEW_SEED, PREVIEW_SEED + PREVIEWS)
    latents = diffusion.sampling.sample_images(
        backbone, [prompt or settings.prompt] * PREVIEWS, seeds, build.settings.drivers.size,
        steps=settings.solver_steps, guidance=1.0, batch=PREVIEWS,
    )  # fmt: skip
    return list(backbone.decode(latents).numpy())


def painted_with(pipeline: Pipeline) -> tuple:
    """What `image_oriented` depends on beside the weights and what it is given."""
    settings = pipeline.settings
    return settings.drivers.size, settings.stablesdg.solver_steps, settings.synthesis.batch, settings.precision


def image_oriented(
    build: Build,
    backbone: Backbone,
    sources: Sequence[np.ndarray],
    names: Sequence[str],
    strength: float,
    guidance: float,
    *,
    prompt: str | None = None,
    on_batch: Callable[[int, np.ndarray], None] = lambda *_: None,
) -> np.ndarray:
    """Images (n, S, S, 3) uint8 of the class, each from its source, noised to T' = ``strength`` T (paper B §3.3).

    An image of one name has the same noise whatever its strength, so candidates differ in nothing else.
    ``on_batch(start, images)`` is called after each batch.
    """
    settings, parts = build.settings.stablesdg, []

    def decode(start: int, latents: Tensor) -> None:
        parts.append(backbone.decode(latents).numpy())
        on_batch(start, parts[-1])

    diffusion.sampling.sample_images(
        backbone, [prompt or settings.prompt] * len(names),
        [image_seed(build.pipeline.seed, build.defect_class, f"stablesdg/{name}") for name in names],
        build.settings.drivers.size, steps=settings.solver_steps, guidance=guidance,
        batch=build.settings.synthesis.batch, strength=strength, sources=_encoded(backbone, sources), on_batch=decode,
    )  # fmt: skip
    return np.concatenate(parts)


def _encoded(backbone: Backbone, images: Sequence[np.ndarray]) -> Tensor:
    """Latents (n, C, h, w) of (S, S, 3) uint8 images."""
    return backbone.encode_pixels(np.stack(images))


def train_latents(build: Build, backbone: Backbone) -> Tensor:
    """Of the class's train images, encoded once and for all."""
    return _encoded(backbone, [crop.image for crop in class_windows(build, ("train",))])


def _show(build: Build, before: list[np.ndarray], after: list[np.ndarray]) -> None:
    real = [crop.image for crop in class_windows(build, ("train",))[:PREVIEWS]]
    captions = [name for name, row in (("real", real), ("before", before), ("after", after)) for _ in row]
    blank = [np.full_like(after[0], 255)] * (PREVIEWS - len(real))
    captions[len(real) : len(real)] = [""] * len(blank)
    build.picture("all from noise", contact_sheet([*real, *blank, *before, *after], captions, columns=PREVIEWS))
