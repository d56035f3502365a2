"""A backbone: text encoder, U-Net, autoencoder and scheduler from one local directory in diffusers layout.

Stable Diffusion 1.5 and the embedded backbone take the same path. The embedded one brings an autoencoder and a U-Net
class of its own, named in their ``config.json``, and a hypernetwork prior in ``controlnet/``; both are looked for,
neither is assumed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    ModelMixin,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel

from defect_pipeline.checkpoints import load_weights, save_weights
from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.noising import Noising
from defect_pipeline.diffusion.unet import GaussianDenoiser, SkipUNet
from defect_pipeline.errors import PipelineError

Model = TypeVar("Model", bound=ModelMixin | PreTrainedModel)
LINEAR = "linear.safetensors"
FOLDERS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


@dataclass
class Backbone:
    """A latent diffusion model's parts on one device, frozen and in evaluation mode until an adapter says otherwise."""

    directory: Path
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL | LinearPatchAutoencoder
    scheduler: SchedulerMixin
    precision: torch.dtype = torch.float32  # of the arithmetic under `autocast`; weights stay as they were loaded
    compiled: bool = False  # U-Net and hypernetworks, each shape that they are called with by itself

    def autocast(self) -> torch.autocast:
        """The context in which U-Net and hypernetwork are called."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    @property
    def noising(self) -> Noising:
        return Noising.of(self.scheduler)

    @property
    def factor(self) -> int:
        """Image pixels on the side of a latent cell."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Text embeddings (n, L, D) of n prompts, padded to the tokenizer's length as Stable Diffusion does."""
        return embed(self.tokenizer, self.text_encoder, prompts)

    @torch.no_grad()
    def encode(self, images: Tensor, batch: int = 64) -> Tensor:
        """Scaled latent means (n, C, H/factor, W/factor), float32, of images (n, 3, H, W) in [-1, 1]."""
        parts = [
            self.vae.encode(x.to(self.device, self.vae.dtype), return_dict=False)[0].mean for x in images.split(batch)
        ]
        return torch.cat(parts).float() * self.vae.config.scaling_factor

    def encode_pixels(self, images: np.ndarray) -> Tensor:
        """The latents of images (n, H, W, 3) uint8, as `decode` gives them."""
        return self.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def at_latent_size(self, maps: np.ndarray) -> Tensor:
        """Maps (n, H, W) as (n, h, w) float32: what is as thin as a pixel fills its latent cell."""
        return F.max_pool2d(torch.from_numpy(maps)[:, None].float(), self.factor)[:, 0].to(self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Images (n, H, W, 3) uint8 on the CPU for scaled latents (n, C, h, w)."""
        images = []
        for z in latents.split(batch):
            x = self.vae.decode(z.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
            images.append(((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu())
        return torch.cat(images)

    def fit_linear(self, latents: Tensor) -> None:
        """Fit what the embedded U-Net does in closed form to latents (n, C, h, w); other backbones have no such part."""
        if self._linear is not None:
            self._linear.fit(latents, self.noising.alphas_cumprod)

    def save_linear(self, directory: Path) -> None:
        """Keep what `fit_linear` fitted, if anything, in the file LINEAR of a directory."""
        if self._linear is not None:
            save_weights(self._linear, directory / LINEAR)

    def load_linear(self, directory: Path) -> None:
        """Give the backbone what `save_linear` kept in a directory, if anything."""
        if self._linear is not None and (directory / LINEAR).exists():
            load_weights(self._linear, directory / LINEAR)

    @property
    def _linear(self) -> GaussianDenoiser | None:
        return self.unet.linear if isinstance(self.unet, SkipUNet) else None

    def new_hypernetwork(self, init: str, seed: int = 0) -> ControlNetModel:
        """A trainable copy of the U-Net's encoder behind zero convolutions (paper A §3.2), or the backbone's own prior.

        ``init`` "zero": `ControlNetModel.from_unet`, a no-op until trained, what it draws coming from ``seed``.
        "backbone": the directory's ``controlnet/``, which already knows that painted regions mean defects.
        """
        if init != "zero":
            return self.load_hypernetwork(self.directory / "controlnet")
        channels = (16, 32, 96, 256)[: self.factor.bit_length()]  # of the papers' network at factor 8
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            hypernetwork = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=channels)
        return _ready(hypernetwork, self.device, self.compiled)

    def load_hypernetwork(self, directory: Path) -> ControlNetModel:
        """A saved hypernetwork, frozen, in float32 on the backbone's device."""
        hypernetwork = _load(ControlNetModel, directory).requires_grad_(False).eval()
        return _ready(hypernetwork, self.device, self.compiled)


def load_backbone(
    directory: Path, device: str = "cpu", precision: str = "float32", *, compiled: bool = False
) -> Backbone:
    """Load a backbone from a local directory: float32 master weights, arithmetic in the torch dtype ``precision``.

    ``compiled``, U-Net and hypernetworks go through `torch.compile` when they are first called with a shape.

    Raises PipelineError naming the missing folder. Only safetensors are read, and no hub is asked.
    """
    missing = [folder for folder in FOLDERS if not (directory / folder).is_dir()]
    if missing:
        raise PipelineError(
            f"The backbone directory {directory} has no {', '.join(missing)}; point the profile's `backbone` at a diffusers "
            "model directory, or restore the embedded one by installing the package "
            "anew; `defect-pipeline backbone train` makes one like it."
        )
    backbone = Backbone(
        directory,
        CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True),
        _load(CLIPTextModel, directory / "text_encoder").to(device),
        _ready(load_unet(directory / "unet"), device, compiled),
        load_autoencoder(directory / "vae").to(device),
        DPMSolverMultistepScheduler.from_pretrained(directory / "scheduler", local_files_only=True),
        getattr(torch, precision),
        compiled,
    )
    for module in (backbone.text_encoder, backbone.unet, backbone.vae):
        module.requires_grad_(False).eval()
    return backbone


def load_autoencoder(directory: Path) -> AutoencoderKL | LinearPatchAutoencoder:
    """The autoencoder whose class the directory's config.json names."""
    return _load_named(directory, LinearPatchAutoencoder, AutoencoderKL)


def load_unet(directory: Path) -> UNet2DConditionModel:
    """The U-Net whose class the directory's config.json names."""
    return _load_named(directory, SkipUNet, UNet2DConditionModel)


def load_pipeline(directory: Path) -> StableDiffusionPipeline:
    """The directory as a plain diffusers pipeline in float32, autoencoder and U-Net passed in; no safety checker."""
    return StableDiffusionPipeline.from_pretrained(
        directory, vae=load_autoencoder(directory / "vae"), unet=load_unet(directory / "unet"),
        torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False,
        local_files_only=True,
    )  # fmt: skip


def embed(tokenizer: CLIPTokenizer, text_encoder: nn.Module, prompts: list[str]) -> Tensor:
    """Last hidden states (n, L, D) of n prompts."""
    ids = tokenizer(
        prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    return text_encoder(ids.to(text_encoder.device)).last_hidden_state


def _ready(network: Model, device: torch.device | str, compiled: bool) -> Model:
    """In the layout that convolutions are fastest in; in place, so that names of weights and adapters stay as they are."""
    network = network.to(device, memory_format=torch.channels_last)
    if compiled:
        network.compile(dynamic=False, isolate_recompiles=True)
    return network


def _load_named(directory: Path, ours: type[Model], theirs: type[Model]) -> Model:
    name = json.loads((directory / "config.json").read_text())["_class_name"]
    return _load(ours if name == ours.__name__ else theirs, directory)


def _load(kind: type[Model], directory: Path) -> Model:
    try:
        return kind.from_pretrained(directory, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"Cannot load {directory}: {error}; restore the directory or name another backbone."
        ) from error
