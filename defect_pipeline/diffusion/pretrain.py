"""The recipe of the embedded backbone: ``defect-pipeline backbone train``.

On the procedural world of `world`: the linear autoencoder in closed form, then text encoder, U-Net and hypernetwork
together, resumable. Every surface is seen twice in a batch, once from its caption alone and once with its driver. The
second is the pipeline's own second step (paper A §3.2) taken once for all, so that a component's hypernetwork starts
from "paint means defect"; and what a driver tells need not be guessed, so the U-Net learns from it sooner than from
noise alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from defect_pipeline.allocator import keep_freed_memory
from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.backbone import embed
from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.diffusion.training import TrainingState, denoising_loss, step_generator, training_loop
from defect_pipeline.diffusion.unet import SkipUNet
from defect_pipeline.diffusion.windows import cut, draw_corners, shows_windows
from defect_pipeline.diffusion.world import MARKS, Surfaces, draw_surfaces
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.drivers import class_colours, driver
from defect_pipeline.resumable import resumed

IMAGE_SIZE = 128
TEXT_LENGTH = 24
CHECKPOINT_STEPS = 200
Report = Callable[[int, int, float, float], None]
COLOURS = class_colours(MARKS)


@dataclass(frozen=True)
class Recipe:
    """A step is one batch of fresh surfaces, each seen with and without its driver.

    Three steps of four show windows cut around marks, where a small part of a surface holds what is hardest to learn;
    the fourth shows whole surfaces. The pixels are the same: as many `surfaces` as there are whole ones, or more windows.
    """

    steps: int = 6400
    surfaces: int = 3
    window: int = 64  # px
    views: int = 2  # windows of each surface: drawing it takes a third as long as learning from it
    learning_rate: float = 8e-4
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-12
    warmup: int = 100  # steps
    decay: float = 0.5  # share of the steps
    ema: float = 0.998
    mask_weight: float = 4.0  # how much more a pixel of a mark counts in the loss: marks are a small share of it
    caption_dropout: float = 0.1
    seed: int = 0


def build_tokenizer(directory: Path) -> CLIPTokenizer:
    """A CLIP tokenizer over a small byte-pair vocabulary learned from captions of the world."""
    captions = draw_surfaces(512, 16, Generator().manual_seed(0)).captions
    extra = ["sks", "an image of a sks with a crack defect", "an image of a sks", "a metal component", "a photo of"]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])
    bpe.train_from_iterator(
        captions + extra * 60, trainers.BpeTrainer(vocab_size=420, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = json.loads(bpe.to_str())["model"]["merges"]
    alphabet = [chr(c) for c in _byte_alphabet()]
    tokens = (
        alphabet + [f"{c}</w>" for c in alphabet] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(directory, model_max_length=TEXT_LENGTH, local_files_only=True)
    tokenizer.save_pretrained(directory)
    return tokenizer


def _byte_alphabet() -> list[int]:
    """The 256 printable characters which byte-level BPE maps bytes to."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return kept + [256 + i for i in range(256 - len(kept))]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder of 128 dimensions and 3 layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH, projection_dim=128,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def build_unet(latent_channels: int) -> SkipUNet:
    """An untrained U-Net for 32x32 latents: convolutions at 32x32 and 16x16, attention at 8x8 (7 M parameters).

    It begins as its linear denoiser alone: what it adds to that starts at zero.
    """
    unet = SkipUNet(
        sample_size=IMAGE_SIZE // 4, in_channels=latent_channels, out_channels=latent_channels,
        block_out_channels=(48, 96, 160), norm_num_groups=8, layers_per_block=1, cross_attention_dim=128, attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    nn.init.zeros_(unet.conv_out.weight)
    return unet


def build_hypernetwork(unet: UNet2DConditionModel) -> ControlNetModel:
    """A hypernetwork of an untrained U-Net. There is nothing to protect yet, so its outputs do not start at zero, which
    would keep drivers from the U-Net, and gradients from the drivers, for the first thousand steps."""
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 48))
    for layer in (
        control.controlnet_cond_embedding.conv_out,
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
    ):
        nn.init.normal_(layer.weight, std=0.3 * layer.weight[0].numel() ** -0.5)
    return control


def train_backbone(
    directory: Path,
    work: Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    report: Report = lambda *_: None,
) -> bool:
    """Train the backbone and write it to ``directory`` in diffusers layout; True when the recipe is complete.

    A checkpoint goes to ``work`` every CHECKPOINT_STEPS steps; with ``resume`` training goes on from there, without it a checkpoint
    found there is a PipelineError. After ``minutes`` training stops at a checkpoint and this returns False; what it
    then writes can be looked at, though its learning rate never fell. ``report(step, steps, loss, images_per_second)``
    is called every 20 steps.
    """
    keep_freed_memory()
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "generator.safetensors"
    if checkpoint.exists() and not resume:
        raise PipelineError(f"{checkpoint} is of an earlier training; go on with --resume, or remove it.")
    deadline = monotonic() + 60 * minutes if minutes else float("inf")
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(directory / "tokenizer")
    surfaces = torch.cat([draw_surfaces(64, IMAGE_SIZE, step_generator(recipe.seed, -1 - i)).images for i in range(12)])
    vae = LinearPatchAutoencoder.fit([surfaces * 2 - 1])
    vae.save_pretrained(directory / "vae")
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="v_prediction",
        beta_schedule="squaredcos_cap_v2",
        timestep_spacing="trailing",
        lambda_min_clipped=-5.1,
        steps_offset=1,
    )
    scheduler.save_pretrained(directory / "scheduler")
    text_encoder, unet = build_text_encoder(tokenizer), build_unet(vae.config.latent_channels)
    with torch.no_grad():
        unet.linear.fit(vae.encode(surfaces * 2 - 1, return_dict=False)[0].mean, Noising.of(scheduler).alphas_cumprod)
    control = build_hypernetwork(unet)
    text_encoder.to(device)
    for module in (unet, control):
        module.to(device, memory_format=torch.channels_last)

    world = _World(recipe, Noising.of(scheduler), tokenizer, text_encoder, unet, vae.to(device), control, device)
    parameters = [p for module in (unet, text_encoder, control) for p in module.parameters()]

    def loop(left: Mapping[str, Tensor] | None) -> Iterator[TrainingState]:
        return training_loop(
            parameters, world.loss, steps=recipe.steps, learning_rate=recipe.learning_rate, seed=recipe.seed,
            betas=recipe.betas, eps=recipe.eps, warmup=recipe.warmup, decay=recipe.decay, ema=recipe.ema, resume=left,
        )  # fmt: skip

    complete, losses = True, []
    for state in resumed(loop, checkpoint, steps=recipe.steps, every=CHECKPOINT_STEPS):
        losses.append(state.loss)
        if state.step % 20 == 0:
            report(state.step, recipe.steps, torch.stack(losses).mean().item(), state.images / state.seconds)
            losses.clear()
        if state.step % CHECKPOINT_STEPS == 0 and state.step < recipe.steps and monotonic() > deadline:
            complete = False
            break
    for name, module in (("text_encoder", text_encoder), ("unet", unet), ("controlnet", control)):
        module.requires_grad_(False).half().save_pretrained(directory / name)
    write_model_index(directory, type(scheduler).__name__)
    return complete


@dataclass
class _World:
    """The loss of text encoder, U-Net and hypernetwork on freshly drawn surfaces."""

    recipe: Recipe
    noising: Noising
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: SkipUNet
    vae: LinearPatchAutoencoder
    control: ControlNetModel
    device: str

    def loss(self, step: int, generator: Generator) -> tuple[Tensor, int]:
        """The denoising loss over 2n images: n surfaces without their drivers, then the same with them."""
        side, views = (self.recipe.window, self.recipe.views) if shows_windows(step) else (IMAGE_SIZE, 1)
        n = self.recipe.surfaces * IMAGE_SIZE**2 // side**2
        surfaces = draw_surfaces(n // views, IMAGE_SIZE, generator)
        corners = draw_corners(surfaces.masks.repeat(views, 1, 1), side, generator)
        images, masks, condition = (
            cut(maps.repeat(views, 1, 1, 1), corners, side)
            for maps in (surfaces.images * 2 - 1, surfaces.masks[:, None].float(), self._drivers(surfaces))
        )

        def residuals(zt: Tensor, t: Tensor, text: Tensor) -> dict:
            down, mid = self.control(zt[n:], t[n:], text[n:], controlnet_cond=condition, return_dict=False)
            down, mid = [torch.cat([torch.zeros_like(r), r]) for r in down], torch.cat([torch.zeros_like(mid), mid])
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

        with torch.no_grad():
            z0 = self.vae.encode(images, return_dict=False)[0].mean.repeat(2, 1, 1, 1)
        dropped = torch.rand(2 * n, generator=generator, device=self.device) < self.recipe.caption_dropout
        captions = ["" if d else c for d, c in zip(dropped.tolist(), surfaces.captions * (2 * views), strict=True)]
        text = embed(self.tokenizer, self.text_encoder, captions)
        t = self.noising.times(2 * n, generator)
        noise = torch.randn(z0.shape, generator=generator, device=self.device)
        loss = denoising_loss(self.unet, self.noising, z0, text, t, noise, residuals)  # (2n, h, w)
        mask = F.max_pool2d(masks, masks.shape[-1] // z0.shape[-1])[:, 0]
        weight = 1 + (self.recipe.mask_weight - 1) * mask.repeat(2, 1, 1)
        return (loss * weight).sum() / weight.sum(), 2 * n

    def _drivers(self, surfaces: Surfaces) -> Tensor:
        """Drivers (n, 3, S, S) in [0, 1] of surfaces, each kind of mark in its own colour."""
        images = (surfaces.images * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        masks = surfaces.masks.cpu().numpy()
        drivers = [
            driver(image, [(mark, mask)] if mark else [], IMAGE_SIZE, COLOURS)
            for image, mask, mark in zip(images, masks, surfaces.marks, strict=True)
        ]
        return torch.from_numpy(np.stack(drivers)).permute(0, 3, 1, 2).to(self.device).float() / 255


def write_model_index(directory: Path, scheduler: str) -> None:
    """The model_index.json that makes a directory of parts a diffusers pipeline."""
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
        "tokenizer": ["transformers", "CLIPTokenizer"], "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler],
        "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
        "requires_safety_checker": False,
    }  # fmt: skip
    (directory / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
