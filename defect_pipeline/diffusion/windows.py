"""Windows around defects: a defect is a small part of its image, and a window a fraction of the image's cost."""

import torch
from torch import Generator, Tensor

WHOLE_EVERY = 4  # steps: the others show windows, this one whole images, so that neither size is forgotten


def shows_windows(step: int) -> bool:
    """Whether a step of a training on windows shows them, or whole images."""
    return step % WHOLE_EVERY != WHOLE_EVERY - 1


def draw_corners(masks: Tensor, side: int, generator: Generator) -> Tensor:
    """Upper left corners (n, 2), as row and column, of windows of ``side`` within masks (n, h, w) bool.

    Each window holds a random point of its mask, anywhere in the window; it lies anywhere where nothing is masked.
    """
    height, width = masks.shape[1:]
    points = torch.multinomial(masks.flatten(1).float() + 1e-6, 1, generator=generator)
    points = torch.cat([points // width, points % width], dim=1)
    corners = points - torch.randint(0, side, points.shape, generator=generator, device=masks.device)
    furthest = torch.tensor([height - side, width - side], device=masks.device)
    return corners.clamp(min=torch.zeros_like(furthest), max=furthest)


def cut(maps: Tensor, corners: Tensor, side: int) -> Tensor:
    """The windows (n, ..., side, side) of maps (n, ..., h, w)."""
    return torch.stack([m[..., y : y + side, x : x + side] for m, (y, x) in zip(maps, corners.tolist(), strict=True)])
