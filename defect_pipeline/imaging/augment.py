"""The offline augmentations of defect-free images (Valvano et al., sec. 4): more canvases for synthetic defects."""

import albumentations as A  # noqa: N812 - the library's own spelling
import cv2
import numpy as np

from defect_pipeline.imaging.geometry import crop_resize, square_crop


def variants(
    image: np.ndarray, size: int, *, n: int = 10, seed: int, zoom: tuple[float, float] = (1.0, 1.4)
) -> list[np.ndarray]:
    """`n` views of one (H, W, 3) uint8 image, each (size, size, 3) uint8; the same for the same `seed`.

    Crop and zoom (the square's side is the short side / `zoom`), flip, roto-translation, contrast and noise, so mild that
    the component stays what it is. Turning cuts off the corners instead of making up pixels beyond the edge. The n-th view
    does not depend on how many are asked for.
    """
    rng = np.random.default_rng(seed)
    change = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            # room was left around the square: the corners that turning brings in are cut off again
            A.Rotate(limit=6, interpolation=cv2.INTER_CUBIC, border_mode=cv2.BORDER_REFLECT_101, crop_border=True, p=0.7),
            A.Resize(size, size, interpolation=cv2.INTER_AREA),
            A.RandomBrightnessContrast(brightness_limit=0.12, contrast_limit=0.15, ensure_safe_range=True, p=0.8),
            A.RandomGamma(gamma_limit=(85, 118), p=0.5),
            A.GaussNoise(std_range=(0.005, 0.02), p=0.5),
        ],
        seed=seed,
    )
    views = []
    for _ in range(n):
        box = square_crop(image.shape, None, rng, zoom=rng.uniform(*zoom))
        views.append(change(image=crop_resize(image, box, box[2]))["image"])
    return views
