"""Which images a training step sees, and in what guise: functions of the seed and the step alone."""

import random

import albumentations as A
import cv2
import numpy as np


def batch_indices(n: int, batch: int, seed: int, step: int) -> list[int]:
    """Which of ``n`` images step ``step`` trains on: shuffled epochs end to end, cut into batches."""
    epochs: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(position, n)
        if epoch not in epochs:
            epochs[epoch] = np.random.default_rng((seed, epoch)).permutation(n)
        chosen.append(int(epochs[epoch][index]))
    return chosen


def step_seed(seed: int, step: int) -> int:
    """A seed for one step's generators."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def augmentation(rotations: bool, strong: bool) -> A.Compose:
    """The same in every regime; unless it is ``strong`` nothing crops, so that no mask is lost."""
    turns = [A.RandomRotate90(p=0.75)] if rotations else []
    light = [
        A.RandomBrightnessContrast(0.2, 0.2, p=0.7),
        A.RandomGamma((80, 125), p=0.3),
        A.GaussNoise((0.01, 0.04), p=0.3),
    ]
    shape = [
        A.Affine(scale=(0.7, 1.4), rotate=(-30, 30), shear=(-8, 8), border_mode=cv2.BORDER_REFLECT_101, p=0.8),
        A.ElasticTransform(alpha=20, sigma=6, border_mode=cv2.BORDER_REFLECT_101, p=0.3),
    ]
    look = [A.HueSaturationValue(10, 25, 15, p=0.5), A.GaussianBlur((3, 5), p=0.2), A.CLAHE((1, 3), p=0.2)]
    flips = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    return A.Compose([*flips, *turns, *light, *((*shape, *look) if strong else ())])


def reseed(changes: A.Compose, seed: int) -> None:
    """One stream for all its transforms: `set_random_seed` gives each the same, and flips would go hand in hand."""
    changes.set_random_state(np.random.default_rng(seed), random.Random(seed))
