"""Networks that only look: features and the segmentor, beside the same with their BatchNorm as timm has it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from defect_pipeline import imagenet
from defect_pipeline.allocator import keep_freed_memory
from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.evaluation.features import load_extractor
from defect_pipeline.recognition.segmentor import build_segmentor, train_segmentor
from defect_pipeline_tests.benchmarks.data import as_bytes
from defect_pipeline_tests.benchmarks.timing import Row, in_turn

SIZE, BATCH, AGAINST = 128, 8, "BatchNorm apart"


def features(n: int, repeats: int) -> Row:
    """Features of n images, equal to float noise."""
    images = list(_drawn(n)[0])
    ours = load_extractor("efficientnet-lite0")
    network = load_extractor("efficientnet-lite0").network
    network.network = imagenet.pooled_features().requires_grad_(False)
    theirs = replace(ours, network=network)
    np.testing.assert_allclose(ours.features(images), theirs.features(images), atol=1e-3)
    times = in_turn(lambda: ours.features(images), lambda: theirs.features(images), repeats)
    return Row(f"features, {SIZE} px", n, *times, AGAINST, "images")


def segmentor(steps: int, repeats: int) -> Row:
    """So many steps of training."""
    keep_freed_memory()  # as every stage of a run
    times = in_turn(_train(_frozen, steps), _train(_apart, steps), repeats)
    return Row(f"training the segmentor, {SIZE} px", steps * BATCH, *times, AGAINST, "images")


def _frozen() -> nn.Module:
    return imagenet.frozen(imagenet.feature_maps())


def _apart() -> nn.Module:
    return freeze_batch_norm_2d(imagenet.feature_maps()).requires_grad_(False)


def _train(body: Callable[[], nn.Module], steps: int) -> Callable[[], None]:
    images, masks = _drawn(2 * BATCH)
    instances = [[(0, mask)] for mask in masks]

    def train() -> None:
        model = build_segmentor(1, SIZE)
        model.body = body()
        for _ in train_segmentor(model, list(images), instances, steps=steps, seed=0, batch=BATCH):
            pass

    return train


def _drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, SIZE, SIZE, 3) uint8 and masks (n, SIZE, SIZE) bool."""
    drawn = draw_surfaces(n, SIZE, torch.Generator().manual_seed(0), marked=1.0)
    return as_bytes(drawn.images), drawn.masks.numpy()
