"""The component's look: DreamBooth with class-prior preservation on the annotated images (paper A §3.1)."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.diffusion.adapters import Examples, concept_loss
from defect_pipeline.diffusion.backbone import Backbone, directory_digest, load_backbone
from defect_pipeline.diffusion.sampling import sample_images
from defect_pipeline.diffusion.training import Checkpoint, training_loop
from defect_pipeline.diffusion.unet import SkipUNet
from defect_pipeline.imaging.sheets import contact_sheet, curve

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
    group="generator",
    kinds={"torch", "diffusers"},
    gpu=True,
)
def concept_weights(build: Build) -> None:
    """A U-Net that has learned the component: "an image of a [V]", without forgetting what its class looks like."""
    settings, size = build.settings.concept, build.settings.drivers.size
    backbone = load_backbone(Path(build.settings.backbone), build.settings.device, build.settings.precision)
    crops = read_training({k: build.parent("topological_drivers", k).path for k in build.classes()})
    instance, prior_prompt = concept_prompt(build), f"an image of a {settings.class_noun}"
    examples = Examples.of(backbone, crops.images, crops.drivers, crops.masks, [instance] * len(crops.classes))
    prior = _prior_latents(build, backbone, prior_prompt, size)
    before = preview(backbone, [instance] * 12, build, size)

    if isinstance(backbone.unet, SkipUNet):  # what is linear about the component needs no training
        backbone.unet.linear.fit(examples.latents, backbone.noising.alphas_cumprod)
    parameters = list(backbone.unet.requires_grad_(True).train().parameters())
    loss_at = concept_loss(
        backbone, examples, prior, instance, prior_prompt,
        prior_weight=settings.prior_weight, batch=settings.batch, prior_batch=settings.prior_batch,
    )  # fmt: skip
    train(build, parameters, loss_at, settings.steps, settings.learning_rate)
    backbone.unet.requires_grad_(False).eval()
    after = preview(backbone, [instance] * 12, build, size)
    backbone.unet.half().save_pretrained(build.path / "unet")
    build.metadata |= {"training crops": len(crops.classes), "prior images": len(prior), "prompt": instance}
    build.picture("concept", contact_sheet([*before, *after], ["before"] * 12 + ["after"] * 12, columns=6))


def concept_prompt(build: Build) -> str:
    return f"an image of a {build.settings.concept.token}"


def load_concept(build: Build) -> Backbone:
    """The profile's backbone with the concept's U-Net in place of its own."""
    backbone = load_backbone(Path(build.settings.backbone), build.settings.device, build.settings.precision)
    path = build.parent("concept_weights").path / "unet"
    weights = load_file(path / "diffusion_pytorch_model.safetensors")
    backbone.unet.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return backbone


def train(build: Build, parameters: list, loss_at, steps: int, learning_rate: float, watch=lambda step: None) -> None:
    """Run the training loop with checkpoints in the work directory, progress in the log, a loss curve in the artifact.

    ``watch(step)`` is called after every step, for previews.
    """
    checkpoint = Checkpoint(build.workdir / "checkpoint.safetensors", every=max(10, steps // 20))
    losses: list[tuple[int, torch.Tensor]] = []
    loop = training_loop(
        parameters, loss_at, steps=steps, learning_rate=learning_rate, seed=build.pipeline.seed,
        warmup=max(1, steps // 20), decay=0.3, ema=0.98, checkpoint=checkpoint,
    )  # fmt: skip
    for state in loop:
        losses.append((state.step, state.loss))
        watch(state.step)
        if state.step % 10 == 0 or state.step == steps:  # the only sync point of the loop
            recent = torch.stack([loss for _, loss in losses[-10:]]).mean().item()
            build.progress(state.step, steps, loss=recent, images_per_second=state.images / state.seconds)
    if losses:
        build.metadata |= {
            "loss": torch.stack([loss for _, loss in losses[-20:]]).mean().item(),
            "steps": steps,
            "images per second": round(state.images / state.seconds, 2),
        }
        points = [(step, loss.item()) for step, loss in losses]
        build.picture("loss", curve({"loss": points}, build.stage.name, "step", "loss"))


def preview(backbone: Backbone, prompts: list[str], build: Build, size: int, **steering) -> list[np.ndarray]:
    """One image for each prompt, from seeds that stay the same from run to run."""
    synthesis = build.settings.synthesis
    latents = sample_images(
        backbone, prompts, range(PREVIEW_SEED, PREVIEW_SEED + len(prompts)), size,
        steps=synthesis.steps, batch=synthesis.batch, **({"guidance": synthesis.guidance} | steering),
    )  # fmt: skip
    return list(backbone.decode(latents).numpy())


def _prior_latents(build: Build, backbone: Backbone, prompt: str, size: int) -> torch.Tensor:
    """Latents that the untouched model samples for the class; kept in the work directory over a kill."""
    file, n, synthesis = (
        build.workdir / "prior.safetensors",
        build.settings.concept.prior_images,
        build.settings.synthesis,
    )
    if not file.exists():
        latents = sample_images(
            backbone, [prompt] * n, range(PRIOR_SEED, PRIOR_SEED + n), size,
            steps=synthesis.steps, guidance=synthesis.guidance, batch=synthesis.batch,
            on_batch=lambda start, z: build.progress(start + len(z), n),
        )  # fmt: skip
        partial = file.with_suffix(".partial")
        save_file({"latents": latents.cpu()}, partial)
        partial.replace(file)
    return load_file(file)["latents"].to(backbone.device)
