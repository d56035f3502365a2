"""Square crops of a data set's images with their masks: what the generator trains on and is compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.geometry import crop_resize, short_side_resize, square_crop

WINDOW = 0.5  # of the image's side: the smallest window around a defect


@dataclass(frozen=True)
class Crop:
    """image (S, S, 3) uint8 RGB; masks [(category, (S, S) bool)]; the image it was cut from.

    That of `whole` is (H, W, 3), its masks (H, W).
    """

    image: np.ndarray
    masks: list[tuple[str, np.ndarray]]
    image_id: int

    def mask(self) -> np.ndarray:
        """(S, S) bool: the union of all masks."""
        return np.any([mask for _, mask in self.masks], axis=0) if self.masks else np.zeros(self.image.shape[:2], bool)

    def class_mask(self, category: str) -> np.ndarray:
        """(S, S) bool: the union of the masks of one category, of which there must be one."""
        return np.any([mask for name, mask in self.masks if name == category], axis=0)


def defect_crops(
    dataset: Dataset, image_ids: Sequence[int], category: str, size: int, *, per_image: int, zoom: float, seed: int
) -> Iterator[Crop]:
    """``per_image`` random crops around one instance of ``category`` each, closing in by 1 to ``zoom``, some flipped.

    The first crop of an image is always its widest view. A crop that shows no instance of the category is left out.
    """
    for image_id in image_ids:
        image, masks = dataset.image(image_id), dataset.masks(image_id)
        targets = [mask for name, mask in masks if name == category]
        rng = np.random.default_rng([seed, dataset.seed(image_id)])
        for k in range(per_image):
            focus = targets[rng.integers(len(targets))]
            box = square_crop(
                image.shape, focus, rng, zoom=1.0 if k == 0 else rng.uniform(1.0, zoom), min_side=size // 2
            )
            crop = _cut(image, masks, box, size, image_id)
            if any(name == category for name, _ in crop.masks):
                yield _flipped(crop, rng) if k else crop


def whole(dataset: Dataset, image_id: int, size: int) -> Crop:
    """The image as it is, its short side ``size`` px: what a detector is asked about."""
    masks = [(name, short_side_resize(mask, size)) for name, mask in dataset.masks(image_id)]
    return Crop(short_side_resize(dataset.image(image_id), size), masks, image_id)


def windows(dataset: Dataset, image_id: int, size: int) -> list[Crop]:
    """The whole image as squares of its short side, evenly spaced along the long one: what a detector learns from."""
    image, masks = dataset.image(image_id), dataset.masks(image_id)
    height, width = image.shape[:2]
    side, length = min(height, width), max(height, width)
    count = -(-length // side)
    starts = np.linspace(0, length - side, count).round().astype(int).tolist()
    boxes = [(start, 0, side) if width >= height else (0, start, side) for start in starts]
    return [_cut(image, masks, box, size, image_id) for box in boxes]


def class_crops(
    dataset: Dataset, category: str, splits: Sequence[str], size: int, *, per_image: int, zoom: float, seed: int
) -> list[Crop]:
    """`defect_crops` of the images of a class in these splits."""
    ids = [i for i in dataset.of_class(category) if dataset.images.at[i, "split"] in splits]
    return list(defect_crops(dataset, ids, category, size, per_image=per_image, zoom=zoom, seed=seed))


def class_windows(dataset: Dataset, category: str, splits: Sequence[str], size: int) -> list[Crop]:
    """The images of a class in these splits, whole, as squares that show a defect of it.

    Raises PipelineError where there is none.
    """
    ids = [i for i in dataset.of_class(category) if dataset.images.at[i, "split"] in splits]
    found = [crop for i in ids for crop in windows(dataset, i, size)]
    found = [crop for crop in found if any(name == category for name, _ in crop.masks)]
    if not found:
        raise PipelineError(
            f"Class {category!r} has no image with a visible defect in {' and '.join(splits)} of {dataset.root}: add "
            "images of it, or take the class out."
        )
    return found


def groups_of(dataset: Dataset, crops: Sequence[Crop]) -> list[str]:
    """The part behind each crop."""
    return [str(dataset.images.at[crop.image_id, "group"]) for crop in crops]


def defect_window(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square around the defects of a (S, S, 3) image, at its size: what lies farther says nothing of the defect."""
    return crop_resize(image, square_crop(image.shape, mask, zoom=1 / WINDOW), image.shape[0])


def _cut(
    image: np.ndarray, masks: list[tuple[str, np.ndarray]], box: tuple[int, int, int], size: int, image_id: int
) -> Crop:
    resized = [(name, crop_resize(mask, box, size)) for name, mask in masks]
    return Crop(crop_resize(image, box, size), [(name, mask) for name, mask in resized if mask.any()], image_id)


def _flipped(crop: Crop, rng: np.random.Generator) -> Crop:
    """The crop, mirrored in half of the cases left to right and in half of them upside down."""
    for axis in (0, 1):
        if rng.random() < 0.5:
            masks = [(name, np.ascontiguousarray(np.flip(mask, axis))) for name, mask in crop.masks]
            crop = Crop(cv2.flip(crop.image, axis), masks, crop.image_id)
    return crop
