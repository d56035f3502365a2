"""The recipe of the embedded backbone: ``defect-pipeline backbone train``.

Three stages on the procedural world of `world`, each resumable: fit the linear autoencoder, train text encoder and U-Net by
flow matching, then freeze both and train a hypernetwork on drivers of marked surfaces. The last stage is the pipeline's own
second step (paper A §3.2) taken once for all, so that a component's hypernetwork starts from "paint means defect".
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.backbone import embed
from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.diffusion.training import Checkpoint, denoising_loss, step_generator, training_loop
from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.imaging.drivers import class_colours, driver

IMAGE_SIZE = 128
TEXT_LENGTH = 24
Report = Callable[[str, int, int, float, float], None]


@dataclass(frozen=True)
class Recipe:
    """Steps and rates of the two learned stages; a step is one batch of fresh surfaces."""

    unet_steps: int = 2200
    control_steps: int = 700
    batch: int = 16
    unet_rate: float = 5e-4
    control_rate: float = 4e-4
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
    tokenizer = CLIPTokenizer.from_pretrained(directory, model_max_length=TEXT_LENGTH)
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


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """An untrained U-Net for 16x16 latents: convolutions at 16x16, attention at 8x8 and 4x4 (10.9 M parameters)."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8, in_channels=latent_channels, out_channels=latent_channels,
        block_out_channels=(96, 160, 192), layers_per_block=1, cross_attention_dim=128, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def train_backbone(
    directory: Path,
    work: Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    report: Report = lambda *_: None,
) -> bool:
    """Train the backbone and write it to ``directory`` in diffusers layout; True when the recipe is complete.

    Checkpoints go to ``work`` every 100 steps, and the same call goes on where they end; a part is written when its stage is
    complete. After ``minutes`` it stops at a checkpoint and returns False. ``report(stage, step, steps, loss, images_per_second)`` is called every 20 steps.
    """
    work.mkdir(parents=True, exist_ok=True)
    deadline = monotonic() + 60 * minutes if minutes else float("inf")
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(directory / "tokenizer")
    vae = _fit_autoencoder(recipe.seed)
    vae.save_pretrained(directory / "vae")
    text_encoder, unet = build_text_encoder(tokenizer).to(device), build_unet(vae.config.latent_channels).to(device)
    unet = unet.to(memory_format=torch.channels_last)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        steps_offset=1,
    )
    scheduler.save_pretrained(directory / "scheduler")
    vae = vae.to(device)
    world = _World(recipe, tokenizer, text_encoder, unet, vae, device)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    stage = _Stage(work, deadline, report, recipe.seed)
    if not stage.run("unet", parameters, world.unet_loss, recipe.unet_steps, recipe.unet_rate):
        return False
    for name, module in (("text_encoder", text_encoder), ("unet", unet)):
        module.requires_grad_(False).half().save_pretrained(directory / name)
        module.float()
    write_model_index(directory, type(scheduler).__name__)

    world.control = ControlNetModel.from_unet(unet, conditioning_channels=3).to(
        device, memory_format=torch.channels_last
    )
    parameters = list(world.control.parameters())
    if not stage.run("hypernetwork", parameters, world.control_loss, recipe.control_steps, recipe.control_rate):
        return False
    world.control.half().save_pretrained(directory / "controlnet")
    return True


@dataclass(frozen=True)
class _Stage:
    work: Path
    deadline: float
    report: Report
    seed: int

    def run(self, name: str, parameters: list, loss_at: Callable, steps: int, rate: float) -> bool:
        """Train one stage to its end (True), or to the first checkpoint after the deadline (False)."""
        checkpoint = Checkpoint(self.work / f"{name}.safetensors", every=100)
        loop = training_loop(
            parameters, loss_at, steps=steps, learning_rate=rate, seed=self.seed, warmup=100, decay=0.4, ema=0.995,
            checkpoint=checkpoint,
        )  # fmt: skip
        losses: list[Tensor] = []
        for state in loop:
            losses.append(state.loss)
            if state.step % 20 == 0:
                self.report(name, state.step, steps, torch.stack(losses).mean().item(), state.images / state.seconds)
                losses.clear()
            if state.step % checkpoint.every == 0 and state.step < steps and monotonic() > self.deadline:
                return False
        return True


class _World:
    """Losses of both stages on freshly drawn surfaces."""

    def __init__(self, recipe: Recipe, tokenizer, text_encoder, unet, vae, device: str) -> None:
        self.recipe, self.tokenizer, self.text_encoder, self.unet, self.vae, self.device = (
            recipe,
            tokenizer,
            text_encoder,
            unet,
            vae,
            device,
        )
        self.noising = Noising("flow_prediction")
        self.control: ControlNetModel | None = None
        self.palette = list(class_colours([str(i) for i in range(8)]).values())

    def unet_loss(self, step: int, generator: Generator) -> tuple[Tensor, int]:
        surfaces = draw_surfaces(self.recipe.batch, IMAGE_SIZE, generator)
        return self._loss(surfaces, generator, None), self.recipe.batch

    def control_loss(self, step: int, generator: Generator) -> tuple[Tensor, int]:
        surfaces = draw_surfaces(self.recipe.batch, IMAGE_SIZE, generator, marked=0.9)
        condition = self._drivers(surfaces, generator)

        def residuals(zt: Tensor, t: Tensor, text: Tensor) -> dict:
            assert self.control is not None
            down, mid = self.control(zt, t, text, controlnet_cond=condition, return_dict=False)
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

        return self._loss(surfaces, generator, residuals), self.recipe.batch

    def _loss(self, surfaces, generator: Generator, residuals) -> Tensor:
        n, draw = self.recipe.batch, {"generator": generator, "device": self.device}
        with torch.no_grad():
            z0 = self.vae.encode(surfaces.images * 2 - 1).latent_dist.mean
        dropped = (torch.rand(n, **draw) < self.recipe.caption_dropout).tolist()
        captions = ["" if d else c for d, c in zip(dropped, surfaces.captions, strict=True)]
        text = embed(self.tokenizer, self.text_encoder, captions)
        t, noise = self.noising.times(n, generator), torch.randn(z0.shape, **draw)
        loss = denoising_loss(self.unet, self.noising, z0, text, t, noise, residuals)  # (n, h, w)
        mask = torch.nn.functional.max_pool2d(surfaces.masks[:, None].float(), IMAGE_SIZE // z0.shape[-1])[:, 0]
        weight = 1 + (self.recipe.mask_weight - 1) * mask
        return (loss * weight).sum() / weight.sum()

    def _drivers(self, surfaces, generator: Generator) -> Tensor:
        """Drivers (n, 3, S, S) in [0, 1], each in a random palette colour: the colour of a class is the user's affair."""
        picks = torch.randint(len(self.palette), (self.recipe.batch,), generator=generator, device=self.device).tolist()
        images = (surfaces.images * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        masks = surfaces.masks.cpu().numpy()
        drivers = [
            driver(image, [("mark", mask)], IMAGE_SIZE, {"mark": self.palette[k]})
            for image, mask, k in zip(images, masks, picks, strict=True)
        ]
        return torch.from_numpy(np.stack(drivers)).permute(0, 3, 1, 2).to(self.device).float() / 255


def _fit_autoencoder(seed: int) -> LinearPatchAutoencoder:
    batches = (draw_surfaces(64, IMAGE_SIZE, step_generator(seed, -1 - i)).images * 2 - 1 for i in range(12))
    return LinearPatchAutoencoder.fit(batches)


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
