"""Our four trainings, set to what the diffusers scripts do: whole images, no mask weight, no dropped text, a constant
learning rate and no moving average. `python -m defect_pipeline_tests.benchmarks.learning KIND FOLDER STEPS DEVICE PRECISION`
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import nn

from defect_pipeline.allocator import keep_freed_memory
from defect_pipeline.diffusion.adapters import Examples, LossAt, concept_loss, hypernetwork_loss, prompted_loss
from defect_pipeline.diffusion.backbone import Backbone, load_backbone
from defect_pipeline.diffusion.lora import add_lora
from defect_pipeline.diffusion.token import learnable_token
from defect_pipeline.diffusion.training import TrainingState, training_loop
from defect_pipeline.imaging.io import read_image

BATCH, RATE, RANK, PRIOR_WEIGHT = 8, 1e-5, 4, 0.5  # images a step; so small a rate that losses stay comparable
INSTANCE, CLASS, LIKE, TOKEN_PROMPT = "an image of a sks", "an image of a component", "defect", "a photo of a <unknown>"
Learning = Iterator[TrainingState]


def concept(backbone: Backbone, folder: Path, steps: int) -> Learning:
    """DreamBooth: half of a batch shows the class."""
    examples = _read(backbone, folder)
    prior = backbone.encode_pixels(_images(folder / "prior"))
    loss_at = concept_loss(
        backbone, examples, prior, INSTANCE, CLASS,
        prior_weight=PRIOR_WEIGHT, batch=BATCH // 2, prior_batch=BATCH // 2,
    )  # fmt: skip
    return _learn(list(backbone.unet.requires_grad_(True).train().parameters()), loss_at, steps)


def hypernetwork(backbone: Backbone, folder: Path, steps: int) -> Learning:
    """The ControlNet of the folder."""
    examples = _read(backbone, folder)
    network = backbone.load_hypernetwork(backbone.directory / "controlnet").requires_grad_(True).train()
    loss_at = hypernetwork_loss(backbone, network, examples, batch=BATCH, mask_weight=1, text_dropout=0)
    return _learn(list(network.parameters()), loss_at, steps)


def token(backbone: Backbone, folder: Path, steps: int) -> Learning:
    """Textual inversion of one token."""
    examples = _read(backbone, folder)
    with learnable_token(backbone, LIKE) as row:
        yield from _learn([row], prompted_loss(backbone, examples.latents, TOKEN_PROMPT, batch=BATCH), steps)


def lora(backbone: Backbone, folder: Path, steps: int) -> Learning:
    """Adapters of the U-Net; those of the text encoder, which the script has not, are there and do not learn."""
    examples = _read(backbone, folder)
    adapters = add_lora(backbone, RANK, seed=0)
    backbone.text_encoder.requires_grad_(False)
    loss_at = prompted_loss(backbone, examples.latents, INSTANCE, batch=BATCH)
    return _learn([p for p in adapters if p.requires_grad], loss_at, steps)


KINDS: dict[str, Callable[[Backbone, Path, int], Learning]] = {
    learn.__name__: learn for learn in (concept, hypernetwork, token, lora)
}


def _learn(parameters: list[nn.Parameter], loss_at: LossAt, steps: int) -> Learning:
    return training_loop(parameters, loss_at, steps=steps, learning_rate=RATE, seed=0)


def _read(backbone: Backbone, folder: Path) -> Examples:
    images, drivers = (_images(folder / "train" / name) for name in ("images", "drivers"))
    return Examples.of(backbone, images, drivers, drivers.any(-1), [INSTANCE] * len(images))


def _images(folder: Path) -> np.ndarray:
    """(n, H, W, 3) uint8."""
    return np.stack([read_image(path) for path in sorted(folder.iterdir())])


if __name__ == "__main__":
    kind, place, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    keep_freed_memory()  # as every stage of a run
    for state in KINDS[kind](load_backbone(place / "backbone", *sys.argv[4:]), place, steps):
        print(f"{state.step}/{steps} [loss={state.loss:.4g}]", flush=True)
