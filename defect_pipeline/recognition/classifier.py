"""Classifiers of defects (paper B §4): the paper's five architectures from scratch, and one with ImageNet weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from defect_pipeline import imagenet
from defect_pipeline.checkpoints import (
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
    with_prefix,
    without_prefix,
)
from defect_pipeline.errors import PipelineError
from defect_pipeline.recognition.examples import augmentation, batch_indices, reseed, step_seed

ARCHITECTURES = {  # the smallest of each of the paper's families
    "alexnet": torchvision.models.alexnet,
    "vgg": torchvision.models.vgg11_bn,
    "resnet": torchvision.models.resnet18,
    "squeezenet": torchvision.models.squeezenet1_1,
    "densenet": torchvision.models.densenet121,
}
PRETRAINED = "efficientnet-lite0"  # ImageNet weights come with the install
NAMES = (*ARCHITECTURES, PRETRAINED)


class _EfficientNet(nn.Module):
    """EfficientNet-Lite0's pooled features and a linear layer; its BatchNorm keeps ImageNet's statistics."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = imagenet.pooled_features()
        self.classifier = nn.Linear(1280, num_classes)

    def train(self, mode: bool = True) -> "_EfficientNet":
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def build_classifier(name: str, num_classes: int, *, seed: int = 0) -> nn.Module:
    """A classifier of (n, 3, S, S) images normalised by `imagenet.MEAN` and `STD`; weights from ``seed`` where they are
    not pretrained. Raises `PipelineError` for an unknown name."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name == PRETRAINED:
            return _EfficientNet(num_classes).to(memory_format=torch.channels_last)
        if name not in ARCHITECTURES:
            raise PipelineError(f"classifier {name!r} is unknown: choose of {', '.join(NAMES)}")
        model = ARCHITECTURES[name](weights=None, num_classes=num_classes)
    return model.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class ClassifierTraining:
    """What a step leaves behind; ``loss`` is a tensor so that reading it is the caller's choice of sync point."""

    step: int  # steps done
    loss: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimizer and step, as references: to be written at once."""
        optimizer = with_prefix("optimizer", optimizer_tensors(self.optimizer))
        return {"step": torch.tensor(self.step), **with_prefix("model", self.model.state_dict()), **optimizer}


def train_classifier(
    model: nn.Module,
    images: np.ndarray,
    labels: Sequence[int],
    *,
    steps: int,
    seed: int,
    batch: int = 16,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-2,
    warmup: int = 20,
    label_smoothing: float = 0.05,
    strong: bool = False,
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[ClassifierTraining]:
    """Train in place on images (n, S, S, 3) uint8 with AdamW, warm-up and cosine, yielding after each step.

    Each image is seen once before any is seen again, augmented as for the segmentor, ``strong`` or not. Randomness comes
    from ``seed`` and the step, so a resumed run equals an uninterrupted one.

    Raises `PipelineError` without images.
    """
    if not len(images):
        raise PipelineError("there is no image to train the classifier on: add images to the train split")
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    start = _restore(model, optimizer, resume) if resume else 0
    targets = torch.as_tensor(labels, device=device)
    changes = augmentation(rotations=True, strong=strong)
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = batch_indices(len(images), batch, seed, step)
        reseed(changes, step_seed(seed, step))
        x = _normalised(np.stack([changes(image=images[i])["image"] for i in chosen]), device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(step_seed(seed, step))  # dropout draws from the global generators
            loss = F.cross_entropy(model.train()(x), targets[chosen], label_smoothing=label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield ClassifierTraining(step + 1, loss.detach(), model, optimizer)


def predict_classes(model: nn.Module, images: np.ndarray, *, batch: int = 32) -> np.ndarray:
    """Probabilities (n, classes) float32 of images (n, S, S, 3) uint8."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        parts = [
            model(_normalised(images[start : start + batch], device)).softmax(1).cpu()
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts).numpy()


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> int:
    restore_tensors(model.state_dict(), without_prefix("model", state))
    restore_optimizer(optimizer, without_prefix("optimizer", state))
    return int(state["step"])


def _normalised(images: np.ndarray, device: torch.device) -> Tensor:
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (imagenet.MEAN, imagenet.STD))
    return (x - mean) / std
