"""A segmentor that classifies pixels and takes connected ones for an instance: for few images, and for few seconds.

The network that sees is frozen, for few images teach it nothing better. It is shown the image enlarged, since defects are
small; plain filters stand beside it. What learns are perceptrons, and the pixels of an annotated image teach them, where
a region-based network learns from a handful of boxes. There are several, whose answers are averaged: what one of them
begins with moves figures on few images more than the data do. What they cannot do is part defects that touch.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defect_pipeline import imagenet
from defect_pipeline.recognition.filters import FILTERS, filter_bank

CHANNELS = (16, 24, 40, 112, 320)  # of EfficientNet-Lite0's maps, strides 2 to 32
HEADS = 4
ENLARGED = 2  # times; a map of each pixel's own is then the finest
PROBABILITY = 0.35  # of any defect, in the pixels of an instance: AP ranks what it is not sure of
SMALLEST = 4  # px
BACKGROUND = 3.0  # logit at the start: were all classes as likely, a short training would only unlearn that
HEAVIEST = 8.0  # weight of a rare class against the background; more, and masks come out too wide
DICE = 0.5  # its weight beside the cross-entropy


class PixelSegmentor(nn.Module):
    """EfficientNet-Lite0's maps and a filter bank, classified pixel by pixel; called and answering as torchvision's
    detectors do.

    In training, images [(3, H, W)] in [0, 1] and targets with "labels" (from 1) and "masks" give a dict of losses;
    else each image gives "boxes", "labels", "scores" and "masks" (n, 1, H, W), surest first.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = imagenet.frozen(imagenet.feature_maps())
        self.heads = nn.ModuleList(Perceptron(num_classes) for _ in range(HEADS))

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if self.training:
            assert targets is not None
            return self._losses(torch.stack(list(images)), torch.stack([_classes(target) for target in targets]))
        return [_instances(p) for stack in self._stacks(images) for p in self._probabilities(stack)]

    def _stacks(self, images: Sequence[Tensor]) -> list[Tensor]:
        """One batch where all images are of one size, else each by itself."""
        if len({image.shape for image in images}) == 1:
            return [torch.stack(list(images))]
        return [image[None] for image in images]

    def _probabilities(self, x: Tensor) -> Tensor:
        """(n, classes + 1, H, W), the background first."""
        seen = self._seen(x)
        return torch.stack([head(seen).softmax(1) for head in self.heads]).mean(0)

    def _losses(self, x: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Means over the heads, of one pixel in every four: its neighbours would tell them little more."""
        top, left = torch.randint(2, (2,)).tolist()
        filters, finest, *coarse = self._seen(x)
        fine = [
            layer[..., top::2, left::2].contiguous(memory_format=torch.channels_last) for layer in (filters, finest)
        ]
        truth = truth[:, top::2, left::2]
        losses = [_losses(head([*fine, *coarse], (top, left)), truth) for head in self.heads]
        return {name: torch.stack([own[name] for own in losses]).mean() for name in losses[0]}

    @torch.no_grad()
    def _seen(self, x: Tensor) -> list[Tensor]:
        """The filters' answers, then the maps, as large as the image and half of that each time."""
        return [filter_bank(x), *self._maps(x)]

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Of the enlarged image, strides 1 to 16 in its own pixels."""
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (imagenet.MEAN, imagenet.STD))
        multiple = 32 // ENLARGED
        x = F.pad((x - mean) / std, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode="replicate")
        x = F.interpolate(x, scale_factor=float(ENLARGED), mode="bilinear")
        return self.body(x.contiguous(memory_format=torch.channels_last))


class Perceptron(nn.Module):
    """Logits (n, classes + 1, H, W) from what a `PixelSegmentor` sees, the background first."""

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.from_maps = nn.ModuleList(nn.Conv2d(channels, width, 1, bias=False) for channels in CHANNELS)
        self.from_filters = nn.Conv2d(FILTERS, width, 1)
        self.between = nn.Conv2d(width, width, 1)
        self.classify = nn.Conv2d(width, num_classes + 1, 1)
        assert self.classify.bias is not None
        self.classify.bias.data[0] = BACKGROUND

    def forward(self, seen: Sequence[Tensor], offset: tuple[int, int] | None = None) -> Tensor:
        """Of every pixel, or, given its ``offset`` down and to the right, of one in every square of two by two; the
        filters' answers and the finest map are then of these pixels alone."""
        filters, finest, *coarse = seen
        height, width = filters.shape[-2:]
        layers = [read(maps) for read, maps in zip(self.from_maps[1:], coarse, strict=True)]
        here = layers.pop()
        while layers:
            here = layers.pop() + _twice(here)
        here = (self.from_maps[0](finest) + _twice(here, offset))[..., :height, :width] + self.from_filters(filters)
        return self.classify(F.relu(self.between(F.relu(here))))


def _twice(x: Tensor, offset: tuple[int, int] | None = None) -> Tensor:
    """(n, c, h, w) interpolated to (n, c, 2 h, 2 w); of that, where an ``offset`` down and to the right is given, the pixel
    there in every square of two by two."""
    if offset is None:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear")
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = torch.lerp(x[..., 1:-1, :], x[..., 2:, :] if offset[0] else x[..., :-2, :], 0.25)
    return torch.lerp(x[..., 1:-1], x[..., 2:] if offset[1] else x[..., :-2], 0.25)


def _losses(logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, a class weighing the more the fewer pixels of the batch it has, and Dice of those present."""
    classes = logits.shape[1]
    counts = torch.bincount(truth.flatten(), minlength=classes).clamp(min=1)
    weights = (counts[0] / counts).sqrt().clamp(1, HEAVIEST)
    found = logits.softmax(1)
    wanted = F.one_hot(truth, classes).permute(0, 3, 1, 2).to(found.dtype)
    common, sizes = (found * wanted).sum((0, 2, 3)), (found + wanted).sum((0, 2, 3))
    dice = 1 - (2 * common + 1) / (sizes + 1)
    present = (wanted.sum((0, 2, 3)) > 0).float()
    present[0] = 0
    return {
        "loss_pixels": F.cross_entropy(logits, truth, weight=weights),
        "loss_dice": DICE * (dice * present).sum() / present.sum().clamp(min=1),
    }


def _classes(target: dict[str, Tensor]) -> Tensor:
    """(H, W) int64: 0, or the label of the last instance that covers the pixel."""
    truth = torch.zeros(target["masks"].shape[1:], dtype=torch.int64, device=target["masks"].device)
    for label, mask in zip(target["labels"], target["masks"], strict=True):
        truth[mask.bool()] = label
    return truth


def _instances(probabilities: Tensor) -> dict[str, Tensor]:
    """Connected pixels that likely show a defect, of the class that they take it for in the mean; that mean is the score.

    Asked apart, the pixels of one defect would disagree about its class and tear it to pieces.
    """
    p = probabilities.cpu().numpy()
    masks, boxes, scores, labels = [], [], [], []
    n, regions, stats, _ = cv2.connectedComponentsWithStats((1 - p[0] >= PROBABILITY).astype(np.uint8), connectivity=8)
    for k in range(1, n):
        x, y, w, h, area = (int(v) for v in stats[k])
        if area < SMALLEST:
            continue
        mask = regions == k
        classes = p[1:, mask].mean(1)
        masks.append(mask)
        boxes.append((x, y, x + w, y + h))
        scores.append(float(classes.max()))
        labels.append(int(classes.argmax()) + 1)
    order = np.argsort(-np.array(scores), kind="stable").astype(int)
    return {
        "masks": torch.from_numpy(np.array(masks, np.float32).reshape(-1, 1, *p.shape[1:])[order]),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
        "scores": torch.tensor(scores, dtype=torch.float32)[order],
        "labels": torch.tensor(labels, dtype=torch.int64)[order],
    }
