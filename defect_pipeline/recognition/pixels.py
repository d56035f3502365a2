"""A segmentor that classifies pixels and takes connected ones for an instance: for few images, and for few seconds.

Every pixel of an annotated image teaches it, where a region-based network learns from a handful of boxes; what it cannot
do is part defects of one class that touch.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn import functional as F

from defect_pipeline import imagenet

CHANNELS = (16, 24, 40, 112, 320)  # of EfficientNet-Lite0's maps, strides 2 to 32
PROBABILITY = 0.3  # of a pixel that counts as its class: AP ranks what it is not sure of
SMALLEST = 4  # px
BACKGROUND = 3.0  # logit at the start: were all classes as likely, a short training would only unlearn that
HEAVIEST = 20.0  # weight of a rare class against the background


class PixelSegmentor(nn.Module):
    """EfficientNet-Lite0 with a feature pyramid up to stride 2; called and answering as torchvision's detectors do.

    In training, images [(3, H, W)] in [0, 1] and targets with "labels" (from 1) and "masks" give a dict of losses;
    else each image gives "boxes", "labels", "scores" and "masks" (n, 1, H, W), surest first.
    """

    frozen = ("conv_stem.", "bn1.", "blocks.0.")  # edges: few images teach nothing better

    def __init__(self, num_classes: int, width: int = 48) -> None:
        super().__init__()
        self.body = freeze_batch_norm_2d(imagenet.feature_maps())
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(not name.startswith(self.frozen))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CHANNELS)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU())
            for _ in CHANNELS
        )
        self.classify = nn.Conv2d(width, num_classes + 1, 1)
        assert self.classify.bias is not None
        self.classify.bias.data[0] = BACKGROUND

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        logits = [self._logits(image) for image in self._stacks(images)]
        if self.training:
            assert targets is not None
            return self._losses(torch.cat(logits), torch.stack([_classes(target) for target in targets]))
        return [_instances(p) for part in logits for p in part.softmax(1)]

    def _stacks(self, images: Sequence[Tensor]) -> list[Tensor]:
        """One batch where all images are of one size, as those of a training must be; else each by itself."""
        if len({image.shape for image in images}) == 1:
            return [torch.stack(list(images))]
        return [image[None] for image in images]

    def _logits(self, x: Tensor) -> Tensor:
        """(n, classes + 1, H, W), the background first."""
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (imagenet.MEAN, imagenet.STD))
        height, width = x.shape[-2:]
        x = F.pad((x - mean) / std, (0, -width % 32, 0, -height % 32), mode="replicate")
        above: Tensor | None = None
        for level, features in reversed(list(enumerate(self.body(x.contiguous(memory_format=torch.channels_last))))):
            here = self.lateral[level](features)
            if above is not None:
                here = here + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = self.smooth[level](here)
        assert above is not None
        logits = F.interpolate(self.classify(above), scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def _losses(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
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
            "loss_dice": (dice * present).sum() / present.sum().clamp(min=1),
        }


def _classes(target: dict[str, Tensor]) -> Tensor:
    """(H, W) int64: 0, or the label of the last instance that covers the pixel."""
    truth = torch.zeros(target["masks"].shape[1:], dtype=torch.int64, device=target["masks"].device)
    for label, mask in zip(target["labels"], target["masks"], strict=True):
        truth[mask.bool()] = label
    return truth


def _instances(probabilities: Tensor) -> dict[str, Tensor]:
    """Connected pixels of a class, the mean of their probabilities as the score."""
    height, width = probabilities.shape[1:]
    masks, boxes, scores, labels = [], [], [], []
    for label, p in enumerate(probabilities.cpu().numpy()[1:], start=1):
        n, components, stats, _ = cv2.connectedComponentsWithStats((p >= PROBABILITY).astype(np.uint8), connectivity=8)
        for k in range(1, n):
            x, y, w, h, area = (int(v) for v in stats[k])
            if area < SMALLEST:
                continue
            masks.append(components == k)
            boxes.append((x, y, x + w, y + h))
            scores.append(float(p[masks[-1]].mean()))
            labels.append(label)
    order = np.argsort(-np.array(scores), kind="stable").astype(int)
    return {
        "masks": torch.from_numpy(np.array(masks, np.float32).reshape(-1, 1, height, width)[order]),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
        "scores": torch.tensor(scores, dtype=torch.float32)[order],
        "labels": torch.tensor(labels, dtype=torch.int64)[order],
    }
