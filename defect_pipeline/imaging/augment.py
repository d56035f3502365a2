"""The offline augmentations of defect-free images (Valvano et al., sec. 4): more canvases for synthetic defects."""

import os

import cv2
import numpy as np

from defect_pipeline.imaging.geometry import crop_resize, square_crop

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the import would ask the package index for a newer version

import albumentations as A

TURN = 6  # degrees
ROOM = 1.1  # cos + sin of TURN: what is left of a square of this side, turned and cut, needs no enlarging


def variants(
    image: np.ndarray, size: int, *, n: int = 10, seed: int, zoom: tuple[float, float] = (1.0, 1.4)
) -> list[np.ndarray]:
    """`n` views of one (H, W, 3) uint8 image, each (size, size, 3) uint8; the same for the same `seed`.

    Crop and zoom (the square's side is the short side / `zoom`, drawn from that range), flip, roto-translation,
    contrast and noise, so mild that the component stays what it is. Turning cuts off the corners instead of making up
    pixels beyond the edge. The k-th view does not depend on how many are asked for.
    """
    rng = np.random.default_rng(seed)
    change = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            # the cut is a pixel short now and then: reflected, or it would leave black corners
            A.Rotate(TURN, interpolation=cv2.INTER_CUBIC, crop_border=True, border_mode=cv2.BORDER_REFLECT_101, p=0.7),
            A.Resize(size, size, interpolation=cv2.INTER_AREA),
            # relative to the picture's own mean: a dim exposure would turn black
            A.RandomBrightnessContrast(0.12, 0.15, brightness_by_max=False, p=0.8),
            A.RandomGamma(gamma_limit=(92, 109), p=0.5),
            A.GaussNoise(std_range=(0.005, 0.02), per_channel=False, p=0.5),
        ],
        seed=seed,
    )
    views = []
    for _ in range(n):
        box = square_crop(image.shape, None, rng, zoom=rng.uniform(*zoom))
        views.append(change(image=crop_resize(image, box, round(ROOM * size)))["image"])
    return views
