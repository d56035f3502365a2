"""What an autoencoder keeps of images it never saw: how near the pixels are, and how much of the texture is left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reconstruction:
    """Figures over all pixels of n images. PSNR alone flatters blur on low-contrast surfaces: read both."""

    psnr: float  # dB
    psnr_defects: float  # dB under the masks; NaN where nothing is masked
    gradient_energy: float  # share of the squared differences between neighbouring pixels that is kept
    n: int


def reconstruction(
    images: Sequence[np.ndarray], decoded: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> Reconstruction:
    """Compare images (H, W, 3) uint8 with what was decoded of them; masks (H, W) bool, empty without a defect."""
    errors = [(x.astype(np.float64) - y) ** 2 for x, y in zip(images, decoded, strict=True)]
    under = [error[mask] for error, mask in zip(errors, masks, strict=True)]
    return Reconstruction(
        psnr=_decibels(np.concatenate([error.reshape(-1) for error in errors])),
        psnr_defects=_decibels(np.concatenate([error.reshape(-1) for error in under])),
        gradient_energy=sum(map(_gradient_energy, decoded)) / sum(map(_gradient_energy, images)),
        n=len(images),
    )


def _decibels(squared_errors: np.ndarray) -> float:
    with np.errstate(divide="ignore"):  # no error at all is infinitely good
        return float(10 * np.log10(255**2 / squared_errors.mean())) if squared_errors.size else float("nan")


def _gradient_energy(image: np.ndarray) -> float:
    pixels = image.astype(np.float64)
    return float(sum((np.diff(pixels, axis=axis) ** 2).sum() for axis in (0, 1)))
