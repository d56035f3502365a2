"""A bank of filters: what a pixel looks like beside its surroundings, near and far, whatever the light and contrast."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

SIGMAS = (0.7, 1.4, 2.8, 5.6, 11.2)  # px: from a scratch's width to that of a stain
FILTERS = 1 + 5 * len(SIGMAS) + 2
FLAT = 0.02  # grey levels of 1: what counts as contrast at least, so that noise of a flat image stays small
NORMAL = 1.4826  # standard deviation of a normal distribution by its median absolute one
BRIGHTEST = 12.0  # deviations from the median; a glint says no more than that


def filter_bank(images: Tensor) -> Tensor:
    """(n, FILTERS, H, W) of RGB images (n, 3, H, W) in [0, 1].

    Grey in deviations from the image's median; at each scale its mean, gradient, both curvatures (eigenvalues of the
    Hessian) and standard deviation, the derivatives times the scale; and the distances to the nearer borders. All through
    asinh, which keeps small values and tames large ones.
    """
    grey = images.mean(1, keepdim=True)  # (n, 1, H, W)
    median = grey.flatten(1).median(1).values.view(-1, 1, 1, 1)
    spread = NORMAL * (grey - median).abs().flatten(1).median(1).values.view(-1, 1, 1, 1)
    grey = ((grey - median) / (spread + FLAT)).clamp(-BRIGHTEST, BRIGHTEST)
    answers = [grey, *(answer for sigma in SIGMAS for answer in _at_scale(grey, sigma)), *_to_borders(grey)]
    return torch.cat([_asinh(answer) for answer in answers], 1)


def _asinh(x: Tensor) -> Tensor:
    """To float noise beside 1; torch's own takes one value at a time."""
    return (x.abs() + (x * x + 1).sqrt()).log().copysign(x)


def _at_scale(grey: Tensor, sigma: float) -> tuple[Tensor, ...]:
    mean = _blurred(grey, sigma)
    p = F.pad(mean, (1, 1, 1, 1), mode="replicate")
    dx, dy = (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2
    dxx, dyy = p[..., 1:-1, 2:] + p[..., 1:-1, :-2] - 2 * mean, p[..., 2:, 1:-1] + p[..., :-2, 1:-1] - 2 * mean
    dxy = (p[..., 2:, 2:] + p[..., :-2, :-2] - p[..., 2:, :-2] - p[..., :-2, 2:]) / 4
    middle, root = (dxx + dyy) / 2, ((dxx - dyy) ** 2 / 4 + dxy**2).sqrt()
    deviation = (_blurred(grey**2, sigma) - mean**2).clamp(min=0).sqrt()
    gradient = sigma * (dx**2 + dy**2).sqrt()
    return mean, gradient, sigma**2 * (middle + root), sigma**2 * (middle - root), deviation


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """By a Gaussian, along rows and columns. As products of matrices: convolutions of one channel take seven times as long."""
    height, width = (_gaussian(side, sigma).to(x) for side in x.shape[-2:])
    return height.T @ x @ width


@lru_cache(maxsize=64)  # of pictures of many sizes not all
def _gaussian(side: int, sigma: float) -> Tensor:
    """(side, side): a column for each place of a row, what is beyond an end being as the end is."""
    reach = round(3 * sigma)
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    single = F.pad(torch.eye(side)[:, None], (reach, reach), mode="replicate")
    return F.conv1d(single, (kernel / kernel.sum()).view(1, 1, -1))[:, 0]


def _to_borders(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pixel to the upper or lower border, and to the left or right one, in sixteen px."""
    height, width = grey.shape[-2:]
    rows, columns = (torch.arange(side, device=grey.device, dtype=grey.dtype) for side in (height, width))
    down, right = torch.minimum(rows, height - 1 - rows) / 16, torch.minimum(columns, width - 1 - columns) / 16
    return down.view(1, 1, -1, 1).expand_as(grey), right.view(1, 1, 1, -1).expand_as(grey)
