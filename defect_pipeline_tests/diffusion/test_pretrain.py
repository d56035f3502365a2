from pathlib import Path

import pytest
import torch

from defect_pipeline.diffusion.backbone import load_backbone, load_pipeline
from defect_pipeline.diffusion.pretrain import Recipe, train_backbone
from defect_pipeline.diffusion.sampling import sample_images
from defect_pipeline.diffusion.unet import SkipUNet
from defect_pipeline.errors import PipelineError


def test_the_recipe_writes_a_backbone_that_the_pipeline_and_diffusers_open(tmp_path: Path):
    steps: list[int] = []
    recipe = Recipe(steps=20, surfaces=1)
    complete = train_backbone(tmp_path / "b", tmp_path / "w", recipe, report=lambda step, *_: steps.append(step))
    assert complete and steps == [20]
    with pytest.raises(PipelineError, match=r"generator\.safetensors is of an earlier training.*--resume"):
        train_backbone(tmp_path / "b", tmp_path / "w", recipe)
    assert train_backbone(tmp_path / "b", tmp_path / "w", recipe, resume=True)
    backbone = load_backbone(tmp_path / "b")
    assert isinstance(backbone.unet, SkipUNet) and backbone.unet.conv_out.weight.abs().sum() > 0
    assert backbone.factor == 4
    prior, fresh = backbone.new_hypernetwork("backbone"), backbone.new_hypernetwork("zero")
    assert prior.controlnet_mid_block.weight.abs().sum() > 0 and fresh.controlnet_mid_block.weight.abs().sum() == 0
    drivers = torch.rand(1, 3, 64, 64)
    for hypernetwork in (prior, fresh):
        drawn = sample_images(
            backbone, ["a part"], [0], 64, steps=1, guidance=1.0, batch=1, hypernetwork=hypernetwork, drivers=drivers
        )
        assert drawn.shape == (1, 12, 16, 16)
    pipeline = load_pipeline(tmp_path / "b")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("an image of a part", num_inference_steps=2, height=64, width=64, output_type="pt").images[0]
    assert image.shape == (3, 64, 64) and torch.isfinite(image).all()
