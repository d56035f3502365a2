import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.backbone import load_backbone, load_pipeline
from defect_pipeline.diffusion.sampling import sample_images
from defect_pipeline.errors import PipelineError
from defect_pipeline.files import directory_digest


def test_both_kinds_load_by_the_same_path(tiny_backbone: Path, tiny_stable_diffusion: Path):
    assert isinstance(load_backbone(tiny_backbone).vae, LinearPatchAutoencoder)
    assert isinstance(load_backbone(tiny_stable_diffusion).vae, AutoencoderKL)
    assert load_backbone(tiny_backbone).noising.prediction == "v_prediction"
    assert load_backbone(tiny_stable_diffusion).noising.prediction == "epsilon"


@pytest.mark.parametrize("kind", ["tiny_backbone", "tiny_stable_diffusion"])
def test_every_kind_encodes_samples_and_decodes(kind: str, request: pytest.FixtureRequest):
    backbone = load_backbone(request.getfixturevalue(kind))
    latents = backbone.encode(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert latents.shape == (2, backbone.unet.config.in_channels, 8, 8)
    drawn = sample_images(backbone, ["an image of a sks"] * 2, [1, 2], 64, steps=3, guidance=2.0, batch=2)
    images = backbone.decode(drawn)
    assert images.shape == (2, 64, 64, 3) and images.dtype == torch.uint8 and torch.isfinite(drawn).all()


def test_opens_as_a_plain_diffusers_pipeline(tiny_backbone: Path):
    pipeline = load_pipeline(tiny_backbone)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("an image of a part", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_the_digest_follows_the_weights(tiny_backbone: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_backbone, copy)
    assert directory_digest(copy) == directory_digest(tiny_backbone)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert directory_digest(copy) != directory_digest(tiny_backbone)


def test_a_missing_part_is_named_with_its_remedy(tiny_backbone: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_backbone, copy)
    shutil.rmtree(copy / "unet")
    with pytest.raises(PipelineError, match=r"has no unet.*backbone train"):
        load_backbone(copy)


def test_a_tokenizer_knows_the_rare_token_in_few_pieces(tiny_backbone: Path):
    tokenizer = load_backbone(tiny_backbone).tokenizer
    vocabulary = json.loads((tiny_backbone / "tokenizer" / "vocab.json").read_text())
    pieces = tokenizer.tokenize("an image of a sks with a crack defect")
    assert len(pieces) < 15 and set(pieces) <= set(vocabulary)
    assert tokenizer("crack").input_ids != tokenizer("pit").input_ids
