"""How different the images of one condition are: paper A, Table 3."""

from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

BINS = 32  # grey levels of the joint histogram


@dataclass(frozen=True)
class Variety:
    """Means over the pairs of images of one condition, then over conditions. Variety that ignores the mask is worth
    nothing: read it beside the faithfulness."""

    l2: float  # root mean square difference of a pair, grey levels of 255
    l2_under_masks: float  # the same, under the mask
    mutual_information: float  # of a pair's grey levels, nats; the less the more different
    conditions: int
    samples: int  # of each condition


def variety(images: np.ndarray, masks: np.ndarray) -> Variety:
    """Of m conditions, compare the k >= 2 images (m, k, H, W, 3) uint8 of each; masks (m, H, W) bool, none empty."""
    rows = []
    for of_condition, mask in zip(images, masks, strict=True):
        for a, b in combinations(of_condition, 2):
            squares = ((a.astype(np.float64) - b) ** 2).mean(axis=2)
            rows.append((squares.mean() ** 0.5, squares[mask].mean() ** 0.5, mutual_information(_grey(a), _grey(b))))
    l2, under, information = np.mean(rows, axis=0)
    return Variety(float(l2), float(under), float(information), len(images), len(images[0]))


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two uint8 images of one shape, from their joint histogram of BINS x BINS grey levels, in nats."""
    joint = np.histogram2d(a.ravel(), b.ravel(), bins=BINS, range=((0, 256), (0, 256)))[0] / a.size
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
