"""Shared by the tests: a tiny backbone in the layout of a real one, and a network that answers nobody."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.pretrain import build_tokenizer, write_model_index

# Test processes run side by side; those that they start take their share too.
THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
torch.set_num_threads(THREADS)


@contextmanager
def network_refused() -> Iterator[list[str]]:
    """The other machines that are asked for anything meanwhile, by Python at least; none of them answers."""
    asked: list[str] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def checked(host: Any) -> None:
        if host not in ("127.0.0.1", "::1", "localhost", None):
            asked.append(str(host))
            raise OSError(f"{host} is refused")

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            checked(address[0])
        connect(self, address)

    def resolve_here(host: Any, *options: Any, **named: Any) -> Any:
        checked(host)
        return resolve(host, *options, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(socket, "getaddrinfo", resolve_here)
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            patch.delenv(variable, raising=False)  # one on this machine would hide who asks
        yield asked


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained backbone of the embedded kind: linear autoencoder, velocity prediction."""
    directory = tmp_path_factory.mktemp("embedded")
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    vae = LinearPatchAutoencoder.fit([images], luma_channels=4, chroma_channels=4, patch=8)
    vae.save_pretrained(directory / "vae")
    DPMSolverMultistepScheduler(
        prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1
    ).save_pretrained(directory / "scheduler")
    return _with_unet(directory, latent_channels=8)


@pytest.fixture(scope="session")
def tiny_stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model in SD 1.5's layout: AutoencoderKL, noise prediction over 1000 scaled-linear steps."""
    directory = tmp_path_factory.mktemp("stable-diffusion")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215,
    ).save_pretrained(directory / "vae")  # fmt: skip
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False).save_pretrained(
        directory / "scheduler"
    )
    return _with_unet(directory, latent_channels=4)


def _with_unet(directory: Path, latent_channels: int) -> Path:
    tokenizer = build_tokenizer(directory / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(directory / "text_encoder")  # fmt: skip
    UNet2DConditionModel(
        sample_size=8, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=(16, 32),
        layers_per_block=1, cross_attention_dim=16, attention_head_dim=2, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(directory / "unet")  # fmt: skip
    write_model_index(directory, "DPMSolverMultistepScheduler" if latent_channels == 8 else "DDIMScheduler")
    return directory
