"""What speed is measured with: a backbone in diffusers layout, a device, an arithmetic and a size of images."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.backbone import Backbone, load_backbone
from defect_pipeline.diffusion.unet import SkipUNet
from defect_pipeline.profiles import EMBEDDED

OURS = {"vae": LinearPatchAutoencoder, "unet": SkipUNet}
SD15 = "sd15-shapes"  # names the backbone that `write_random` writes


@dataclass(frozen=True)
class Case:
    """By default the embedded backbone, as its profile uses it."""

    directory: Path = Path(EMBEDDED.backbone)
    device: str = EMBEDDED.device
    precision: str = EMBEDDED.precision
    size: int = EMBEDDED.drivers.size  # px

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    def ours(self, part: str) -> bool:
        """Whether its "vae" or its "unet" is of our class, which other programs do not know."""
        config = json.loads((self.directory / part / "config.json").read_text())
        return config["_class_name"] == OURS[part].__name__

    def backbone(self, *, compiled: bool = False) -> Backbone:
        return load_backbone(self.directory, self.device, self.precision, compiled=compiled)

    def generator(self, *, compiled: bool = False) -> tuple[Backbone, ControlNetModel]:
        """With a hypernetwork: the backbone's own, where it has one."""
        backbone = self.backbone(compiled=compiled)
        return backbone, backbone.new_hypernetwork("backbone" if (self.directory / "controlnet").is_dir() else "zero")


def write_random(directory: Path) -> None:
    """Random weights in the shapes of Stable Diffusion 1.5: as fast as trained ones. Words are those of the embedded tokenizer."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # its other defaults are those shapes
    unet.save_pretrained(directory / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(directory / "vae")  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(Path(EMBEDDED.backbone) / "tokenizer", local_files_only=True)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(directory / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(directory / "text_encoder")  # fmt: skip
    DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(directory / "scheduler")
