"""Segmentors for few images: built on pretrained weights, trained by a generator, asked for instances.

Which data train it and from which weights it starts (the three regimes of paper A §5) is the caller's to compose, by
`regime_stages`; everything else is the same in every regime. Categories are indices from 0, without a background.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import albumentations as A
import numpy as np
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, MaskRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign

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
from defect_pipeline.recognition.pixels import PixelSegmentor

Instances = Sequence[tuple[int, np.ndarray]]  # of one image: (category index, (H, W) bool mask)
Backbone = Literal["efficientnet-lite0-pixels", "efficientnet-lite0", "resnet50-coco"]
COCO_FILE = Path(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url).name  # ends with the first digits of the file's SHA-256


# --- Model ---------------------------------------------------------------------------------------------------------


def build_segmentor(
    num_classes: int,
    size: int,
    backbone: Backbone = "efficientnet-lite0-pixels",
    directory: Path | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """A segmentor with pretrained weights and new heads for ``num_classes`` defect classes, drawn from ``seed``.

    "efficientnet-lite0-pixels" and "efficientnet-lite0" start from ImageNet weights that come with the install and are
    small enough for two CPU cores at 128 px; the first classifies pixels (`PixelSegmentor`), the others are Mask R-CNN,
    which scale images to ``size`` px at their short side. "resnet50-coco" is torchvision's COCO model, read from
    ``directory``; its anchors begin at 32 px, so small defects want a ``size`` of 512 or more. BatchNorm is frozen in
    all: batches of few images would spoil it. Predictions are in the image's own pixels.

    Raises `PipelineError` where the COCO weights are missing or not the published ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module
        if backbone == "efficientnet-lite0-pixels":
            model = PixelSegmentor(num_classes)
        elif backbone == "efficientnet-lite0":
            model = _efficientnet_segmentor(num_classes, size)
        elif backbone == "resnet50-coco":
            model = _coco_segmentor(num_classes, size, directory)
        else:
            raise PipelineError(
                f"segmentor backbone {backbone!r} is unknown: choose efficientnet-lite0-pixels, efficientnet-lite0 or "
                "resnet50-coco"
            )
    return model.to(memory_format=torch.channels_last)


class EfficientNetPyramid(nn.Module):
    """EfficientNet-Lite0's maps of strides 4 to 32 as a feature pyramid of ``channels`` each."""

    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")  # edges and textures: few images teach nothing better

    def __init__(self, channels: int):
        super().__init__()
        self.body = freeze_batch_norm_2d(imagenet.feature_maps())
        self.fpn = FeaturePyramidNetwork([24, 40, 112, 320], channels)
        self.out_channels = channels
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(not name.startswith(self.frozen))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(dict(zip("0123", self.body(x)[1:], strict=True)))


def _efficientnet_segmentor(num_classes: int, size: int) -> MaskRCNN:
    """Heads a quarter of torchvision's: at 128 px there are some thousand anchors and a handful of defects."""
    channels, levels = 64, "0123"
    ratios = (0.25, 0.5, 1.0, 2.0, 4.0)  # cracks and scratches are long and thin
    sides = tuple((size * 2**i // 16, size * 3 * 2**i // 32) for i in range(4))  # 8, 12, 16, 24 ... 96 px at 128 px
    return MaskRCNN(
        EfficientNetPyramid(channels),
        min_size=size,
        max_size=4 * size,
        image_mean=list(imagenet.MEAN),
        image_std=list(imagenet.STD),
        rpn_anchor_generator=AnchorGenerator(sides, (ratios,) * len(sides)),
        rpn_head=RPNHead(channels, len(ratios) * 2),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(list(levels), 7, 2),
        box_head=TwoMLPHead(channels * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, num_classes + 1),
        box_batch_size_per_image=32,  # a quarter of them positive: the mask head's share is what a step costs
        box_detections_per_img=30,
        mask_roi_pool=MultiScaleRoIAlign(list(levels), 14, 2),
        mask_head=MaskRCNNHeads(channels, (64,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(64, 64, num_classes + 1),
    )


def _coco_segmentor(num_classes: int, size: int, directory: Path | None) -> MaskRCNN:
    """torchvision's maskrcnn_resnet50_fpn with frozen BatchNorm, COCO weights and new predictors."""
    weights = _coco_weights((directory or Path(".")) / COCO_FILE)
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    model = MaskRCNN(body, num_classes=91, min_size=size, max_size=4 * size)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # the published weights were trained so
    model.load_state_dict(weights)
    model.roi_heads.box_predictor = FastRCNNPredictor(1024, num_classes + 1)
    model.roi_heads.mask_predictor = MaskRCNNPredictor(256, 256, num_classes + 1)
    return model


def _coco_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PipelineError(
            f"{path} is missing: put torchvision's COCO weights of maskrcnn_resnet50_fpn there, "
            "or set the segmentor's backbone to efficientnet-lite0"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rsplit("-", 1)[1]):
        raise PipelineError(f"{path} is not the published file (its SHA-256 begins {digest[:8]}): fetch it again")
    return torch.load(path, map_location="cpu", weights_only=True)


# --- Training ------------------------------------------------------------------------------------------------------


def regime_stages(regime: str, steps: int) -> list[tuple[Literal["real", "synthetic"], int]]:
    """Data and optimizer steps of each training stage; a stage starts from the weights the one before left.

    The steps add up to ``steps`` in every regime, so that "synthetic_then_real" wins nothing by training longer.
    """
    match regime:
        case "real":
            return [("real", steps)]
        case "synthetic":
            return [("synthetic", steps)]
        case "synthetic_then_real":
            return [("synthetic", steps // 2), ("real", steps - steps // 2)]
    raise PipelineError(f"regime {regime!r} is unknown: choose real, synthetic or synthetic_then_real")


@dataclass(frozen=True)
class SegmentorTraining:
    """What a step leaves behind; ``loss`` is a tensor so that reading it is the caller's choice of sync point."""

    step: int  # steps done
    loss: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def parameters(self) -> dict[str, Tensor]:
        """The trainable ones, as references."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """Trainable tensors, optimizer and step, as references: to be written at once."""
        optimizer = with_prefix("optimizer", optimizer_tensors(self.optimizer))
        return {"step": torch.tensor(self.step), **with_prefix("parameters", self.parameters()), **optimizer}

    def scored(self, score: float) -> dict[str, Tensor]:
        """A copy of the trainable tensors, with what they are worth."""
        copies = {name: p.clone() for name, p in self.parameters().items()}
        return {"score": torch.tensor(score, dtype=torch.float64), **with_prefix("parameters", copies)}


def train_segmentor(
    model: nn.Module,
    images: Sequence[np.ndarray],
    masks: Sequence[Instances],
    *,
    steps: int,
    seed: int,
    batch: int = 8,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    warmup: int = 20,
    clip: float = 5.0,
    rotations: bool = True,
    strong: bool = False,
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[SegmentorTraining]:
    """Train in place for ``steps`` optimizer steps with AdamW, warm-up and cosine, yielding after each.

    ``images`` are (H, W, 3) uint8, ``masks`` their instances; an image without any is a negative. Each image is seen
    once before any is seen again, augmented by flips, quarter turns (unless ``rotations`` is off: a part that always
    lies one way) and changes of light, and where ``strong`` is on by zooms, turns, bends, blur and colour too. All randomness comes from ``seed`` and the step, so a run that continues from
    ``resume``, an earlier `SegmentorTraining.state_dict`, ends with the weights of an uninterrupted one.

    Raises `PipelineError` without images, and `ForeignCheckpointError` for the state of another network.
    """
    if not images:
        raise PipelineError("there is no image to train the segmentor on: add annotated images to the train split")
    device = next(model.parameters()).device
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=learning_rate, weight_decay=weight_decay)
    start = _restore(trainable, optimizer, resume) if resume else 0
    changes = augmentation(rotations, strong)
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        reseed(changes, step_seed(seed, step))
        chosen = batch_indices(len(images), batch, seed, step)
        examples = [_example(changes, images[i], masks[i], device) for i in chosen]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(step_seed(seed, step))  # anchors and proposals are sampled from the global generators
            losses = model.train()([image for image, _ in examples], [target for _, target in examples])
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable.values(), clip)
        optimizer.step()
        yield SegmentorTraining(step + 1, loss.detach(), model, optimizer)


def _restore(
    trainable: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> int:
    restore_tensors(trainable, without_prefix("parameters", state))
    restore_optimizer(optimizer, without_prefix("optimizer", state))
    return int(state["step"])


def _example(
    changes: A.Compose, image: np.ndarray, instances: Instances, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """One augmented image, (3, H, W) float in [0, 1], and torchvision's target for it; labels there begin at 1."""
    planes = {"masks": np.stack([mask for _, mask in instances]).astype(np.uint8)} if instances else {}
    augmented = changes(image=image, **planes)
    pixels = torch.tensor(augmented["image"]).permute(2, 0, 1).to(device).float() / 255
    masks = np.asarray(augmented["masks"]) if instances else np.zeros((0, *pixels.shape[1:]), np.uint8)
    kept = [i for i, mask in enumerate(masks) if mask.any()]  # a zoom may push an instance out of the picture
    target = {
        "boxes": torch.tensor([_box(masks[i]) for i in kept], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([instances[i][0] + 1 for i in kept], dtype=torch.int64),
        "masks": torch.from_numpy(masks[kept]),
    }
    return pixels, {name: tensor.to(device) for name, tensor in target.items()}


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around a mask, the far edges outside it: a single pixel has a box of area 1."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# --- Prediction ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """The instances seen in one image of H x W pixels, surest first."""

    masks: np.ndarray  # (n, H, W) bool
    boxes: np.ndarray  # (n, 4) float32: x0, y0, x1, y1 in px
    scores: np.ndarray  # (n,) float32 in [0, 1]
    labels: np.ndarray  # (n,) int64: category index


def predict(model: nn.Module, images: Sequence[np.ndarray], *, batch: int = 16) -> list[Prediction]:
    """Instances in each (H, W, 3) uint8 image, of any score that the model gives."""
    device = next(model.parameters()).device
    model.eval()
    predictions = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            pixels = [
                torch.from_numpy(image).permute(2, 0, 1).to(device).float() / 255
                for image in images[start : start + batch]
            ]
            predictions += [
                Prediction(
                    masks=(answer["masks"][:, 0] >= 0.5).cpu().numpy(),
                    boxes=answer["boxes"].cpu().numpy(),
                    scores=answer["scores"].cpu().numpy(),
                    labels=(answer["labels"] - 1).cpu().numpy(),
                )
                for answer in model(pixels)
            ]
    return predictions
