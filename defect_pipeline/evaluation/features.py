"""Pretrained image features behind KID and FID. A figure means nothing without the name of its extractor."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from defect_pipeline import imagenet
from defect_pipeline.errors import PipelineError
from defect_pipeline.files import replacing

INCEPTION_FILE = URL_INCEPTION_V3.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Extractor:
    """A network from images to vectors. Figures by different extractors, or by another resize rule, never compare."""

    name: str  # network, weights, layer and resize rule: stands beside every figure
    dimension: int
    network: nn.Module  # (n, 3, h, w) uint8 RGB to (n, dimension)
    memory: Path | None = None  # a folder that keeps features by the images' content, for images that come again

    def features(self, images: np.ndarray | Iterable[np.ndarray], *, batch: int = 8) -> np.ndarray:
        """(N, dimension) float32 of an (N, H, W, 3) uint8 RGB array or of (H, W, 3) ones of any sizes, in their order.

        Without a ``memory`` an iterable is read once and batch by batch, so it may be larger than the machine's; small
        batches stay in a CPU's cache. Raises `ValueError` on an image of another layout or dtype.
        """
        if self.memory is None:
            return self._computed(images, batch)
        images = list(images)
        file = self.memory / f"{_content(self.name, images)}.npz"
        try:
            with np.load(file) as kept:  # a zip, whose checksums tell damage
                return kept["features"]
        except Exception:  # a damaged zip makes numpy raise almost anything
            features = self._computed(images, batch)
        with replacing(file) as partial, partial.open("wb") as stream:
            np.savez(stream, features=features)
        return features

    def _computed(self, images: Iterable[np.ndarray], batch: int) -> np.ndarray:
        rows = [np.zeros((0, self.dimension), np.float32)]
        with torch.inference_mode():
            for same_size in _batches(images, batch):
                pixels = torch.from_numpy(same_size).permute(0, 3, 1, 2)  # (n, 3, h, w)
                rows.append(self.network(pixels.to(self._device)).float().cpu().numpy())
        return np.concatenate(rows)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def _content(name: str, images: list[np.ndarray]) -> str:
    """A digest of the images' pixels and of the extractor's name."""
    digest = hashlib.sha256(name.encode())
    for image in images:
        digest.update(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:32]


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Stacks of up to ``size`` consecutive images of one shape."""
    for shape, run in groupby(images, key=np.shape):
        if len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"an image must be (H, W, 3), not {shape}")
        while stack := list(islice(run, size)):
            if any(image.dtype != np.uint8 for image in stack):
                raise ValueError("images must be uint8 RGB in 0 ... 255")
            yield np.stack(stack)


def load_extractor(name: str, directory: Path | None = None, *, device: str = "cpu") -> Extractor:
    """The extractor "efficientnet-lite0", which needs nothing but the install, or "inception", that of published FIDs.

    "inception" reads torch-fidelity's weights from ``directory``; nothing is ever downloaded. Raises `PipelineError`
    where they are missing or damaged.
    """
    if name == "efficientnet-lite0":
        return Extractor(
            "efficientnet-lite0 (ImageNet), pooled 1280-d, antialiased bicubic 224x224",
            1280,
            _EfficientNetPool().to(device),
        )
    if name == "inception":
        path = (directory or Path(".")) / INCEPTION_FILE
        network, digest = _load_inception(path)
        return Extractor(
            f"inception-v3-compat (torch-fidelity, weights {digest[:8]}), pooled 2048-d, TF1 bilinear 299x299",
            2048,
            network.to(device),
        )
    raise PipelineError(f"extractor {name!r} is unknown: choose efficientnet-lite0 or inception")


class _EfficientNetPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = imagenet.frozen(imagenet.pooled_features())

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.interpolate(pixels.float(), size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255) / 255
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (imagenet.MEAN, imagenet.STD))
        return self.network((x - mean) / std)


class _InceptionPool(nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]


def _load_inception(path: Path) -> tuple[nn.Module, str]:
    """The network and the SHA-256 of its weights."""
    if not path.is_file():
        raise PipelineError(
            f"{path} is missing: put torch-fidelity's Inception weights there, "
            "or set the extractor to efficientnet-lite0"
        )
    try:
        torch.load(path, map_location="meta", weights_only=True)  # torch-fidelity would run whatever a pickle asks for
        network = _InceptionPool(path)
    except Exception as error:
        raise PipelineError(f"{path} does not hold torch-fidelity's Inception weights: fetch it again") from error
    with path.open("rb") as file:
        return network, hashlib.file_digest(file, "sha256").hexdigest()
