"""Generators as earlier trainings left them: a backbone, and what was learned for it, from their directories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from defect_pipeline import diffusion
from defect_pipeline.checkpoints import load_weights
from defect_pipeline.profiles import Profile

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from defect_pipeline.diffusion.backbone import Backbone

EMBEDDING = "learned_embeds.safetensors"  # the name that diffusers looks for


def load_untouched(profile: Profile) -> Backbone:
    """The profile's backbone as it is."""
    return diffusion.backbone.load_backbone(
        Path(profile.backbone), profile.device, profile.precision, compiled=profile.compiled
    )


def load_concept(profile: Profile, unet: Path) -> Backbone:
    """The profile's backbone with the concept's U-Net, of a directory in diffusers layout, in place of its own."""
    backbone = load_untouched(profile)
    load_weights(backbone.unet, unet / "diffusion_pytorch_model.safetensors")
    return backbone


def load_generator(profile: Profile, unet: Path, hypernetwork: Path) -> tuple[Backbone, ControlNetModel]:
    """The concept and its hypernetwork, from their directories."""
    backbone = load_concept(profile, unet)
    return backbone, backbone.load_hypernetwork(hypernetwork)


def load_adapted(profile: Profile, token: Path, adapters: Path) -> Backbone:
    """The profile's backbone with a class's token and adapters, from their directories (paper B §3.1, §3.2)."""
    backbone = load_untouched(profile)
    diffusion.token.load_token(backbone, token / EMBEDDING)
    backbone.load_linear(adapters)
    diffusion.lora.load_lora(backbone, adapters)
    return backbone
