"""What is learned, by the one training loop: concept and condition (paper A §3.1, §3.2), token and adapters (paper B §3.1,
§3.2), and for comparison all parameters. A network is trained in place and left frozen; the loss curve is returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

from defect_pipeline import diffusion
from defect_pipeline.generator.prompts import concept_prompt, prior_prompt
from defect_pipeline.profiles import Concept, Hypernetwork, Optimizer, StableSDG
from defect_pipeline.resumable import Curve, Progress, run_training, silent

if TYPE_CHECKING:
    from diffusers import ControlNetModel
    from torch import Tensor, nn

    from defect_pipeline.diffusion.adapters import Examples, LossAt
    from defect_pipeline.diffusion.backbone import Backbone
    from defect_pipeline.diffusion.training import TrainingState


class Training(TypedDict):
    """The keyword arguments that every training of a generator takes, whatever it learns."""

    seed: int
    optimizer: Optimizer
    checkpoint: Path  # a file, gone on from where it is there
    progress: NotRequired[Progress]


def train(
    parameters: Sequence[nn.Parameter],
    loss_at: LossAt,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    optimizer: Optimizer,
    checkpoint: Path,
    progress: Progress = silent,
    watch: Callable[[int], None] = lambda step: None,
) -> Curve:
    """Run the training loop on the parameters, with checkpoints; the loss of each step since this process began."""

    def loop(left: Mapping[str, Tensor] | None) -> Iterator[TrainingState]:
        return diffusion.training.training_loop(
            parameters, loss_at, steps=steps, learning_rate=learning_rate, seed=seed,
            betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps, weight_decay=optimizer.weight_decay,
            clip=optimizer.clip, warmup=optimizer.warmup_steps(steps), decay=optimizer.decay, ema=optimizer.ema,
            resume=left,
        )  # fmt: skip

    every = max(10, steps // 20)
    return run_training(loop, checkpoint, steps=steps, every=every, progress=progress, watch=watch)


def learn_concept(
    backbone: Backbone, examples: Examples, prior: Tensor, settings: Concept, **training: Unpack[Training]
) -> Curve:
    """Train the U-Net on examples of the component and on latents (m, C, h, w) of its class (paper A §3.1)."""
    backbone.fit_linear(examples.latents)  # what is linear about the component needs no training
    parameters = list(backbone.unet.requires_grad_(True).train().parameters())
    loss_at = diffusion.adapters.concept_loss(
        backbone, examples, prior, concept_prompt(settings.token), prior_prompt(settings.class_noun),
        prior_weight=settings.prior_weight, batch=settings.batch, prior_batch=settings.prior_batch,
        window=settings.window,
    )  # fmt: skip
    losses = train(parameters, loss_at, steps=settings.steps, learning_rate=settings.learning_rate, **training)
    backbone.unet.requires_grad_(False).eval()
    return losses


def learn_condition(
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    examples: Examples,
    settings: Hypernetwork,
    *,
    watch: Callable[[int], None] = lambda step: None,
    **training: Unpack[Training],
) -> Curve:
    """Train the hypernetwork under the frozen backbone (paper A §3.2); ``watch`` is called after every step, for previews."""
    hypernetwork.requires_grad_(True).train()
    loss_at = diffusion.adapters.hypernetwork_loss(
        backbone, hypernetwork, examples, batch=settings.batch, mask_weight=settings.mask_weight,
        text_dropout=settings.text_dropout, window=settings.window,
    )  # fmt: skip
    losses = train(
        list(hypernetwork.parameters()), loss_at, steps=settings.steps, learning_rate=settings.learning_rate,
        watch=watch, **training,
    )  # fmt: skip
    hypernetwork.requires_grad_(False).eval()
    return losses


def learn_token(
    backbone: Backbone, latents: Tensor, prompt: str, settings: StableSDG, **training: Unpack[Training]
) -> Curve:
    """Give the vocabulary the token and train its embedding on latents (n, C, h, w), under ``prompt`` (paper B §3.1)."""
    with diffusion.token.learnable_token(backbone, settings.like) as row:
        loss_at = diffusion.adapters.prompted_loss(backbone, latents, prompt, batch=settings.batch)
        return train([row], loss_at, steps=settings.token_steps, learning_rate=settings.token_learning_rate, **training)


def learn_adapters(
    backbone: Backbone, latents: Tensor, prompt: str, settings: StableSDG, **training: Unpack[Training]
) -> tuple[int, Curve]:
    """Give both networks adapters and train them on latents (n, C, h, w), under ``prompt`` (paper B §3.2).

    How many numbers learned, and the loss curve. What the embedded U-Net does in closed form is fitted as well.
    """
    backbone.fit_linear(latents)
    trainable = diffusion.lora.add_lora(backbone, settings.rank, training["seed"])
    loss_at = diffusion.adapters.prompted_loss(backbone, latents, prompt, batch=settings.batch)
    losses = train(trainable, loss_at, steps=settings.steps, learning_rate=settings.learning_rate, **training)
    return sum(p.numel() for p in trainable), losses


def learn_all_parameters(
    backbone: Backbone,
    latents: Tensor,
    prompt: str,
    *,
    batch: int,
    steps: int,
    learning_rate: float,
    **training: Unpack[Training],
) -> Curve:
    """Train text encoder and U-Net as wholes on latents (n, C, h, w), under ``prompt`` (paper B, Table II)."""
    backbone.fit_linear(latents)
    networks = (backbone.unet, backbone.text_encoder)
    parameters = [p for network in networks for p in network.requires_grad_(True).parameters()]
    loss_at = diffusion.adapters.prompted_loss(backbone, latents, prompt, batch=batch)
    losses = train(parameters, loss_at, steps=steps, learning_rate=learning_rate, **training)
    for network in networks:
        network.requires_grad_(False)
    return losses
