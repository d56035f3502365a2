"""Topological drivers (Valvano et al., sec. 3): what conditions the generator: the structure of an image and its defects.

A driver must not tell whether the image behind it had a defect, or the hypernetwork learns to look there instead of at
the painted mask, and has nothing to look at on defect-free images. So whatever a mask covers, and a margin around it,
is replaced by its surroundings before anything is computed: a driver depends on the clean pixels alone in either case.
"""

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from defect_pipeline.imaging.geometry import resize_mask

BACKGROUND_MAX = 50  # of 255: the structure stays darker than any class colour
MARGIN = 2  # downscaled px around a mask that are hidden with it: annotations end before a defect's halo does
SMOOTHING = 1.0  # Gaussian sigma in downscaled px
MIN_CONTRAST = 24  # of 255: stretching less than this would show the noise of an even surface as structure
MULTIPLE = 8  # diffusers floors other sides without a word


def class_colours(categories: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """category -> RGB of 0..255, saturated and at full value, hence with a channel at 255 that no background reaches.

    The hue depends on the rank alone and halves a gap left by those before it (0, 180, 90, 270, 45 ... degrees), so a
    class joining at the end recolours none.
    """
    hues = [int(f"{rank:b}"[::-1], 2) / (1 << rank.bit_length()) for rank in range(len(categories))]
    return {category: _hue(hue) for category, hue in zip(categories, hues, strict=True)}


def background(
    image: np.ndarray,
    size: int,
    *,
    hidden: np.ndarray | None = None,
    downscale: int = 2,
    block: int = 31,
    offset: float = 10.0,
) -> np.ndarray:
    """The structure of a square (S, S, 3) uint8 image: (size, size) uint8 of 0..BACKGROUND_MAX.

    Downscale (to size / `downscale`), greyscale, adaptive threshold, upscale, 0..255 to 0..50. Dark is what lies
    `offset` below the Gaussian mean of its `block` x `block` neighbours (odd, in downscaled px), after the contrast was
    stretched to 0..255: exposures differ. What `hidden` (S, S bool) covers has no influence.
    """
    side = size // downscale
    grey = cv2.cvtColor(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    if hidden is not None:
        grey = _without(grey, hidden)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), SMOOTHING)  # grain is no structure
    low, high = np.percentile(smooth, (1, 99))
    stretched = np.clip((smooth - low) * (255 / max(high - low, MIN_CONTRAST)), 0, 255).astype(np.uint8)
    method, kind = cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY
    structure = cv2.adaptiveThreshold(stretched, 255, method, kind, block, offset)
    structure = cv2.resize(structure, (size, size), interpolation=cv2.INTER_LINEAR)
    return (structure.astype(np.uint16) * BACKGROUND_MAX // 255).astype(np.uint8)


def driver(
    image: np.ndarray,
    masks: Sequence[tuple[str, np.ndarray]],
    size: int,
    colours: Mapping[str, tuple[int, int, int]],
    *,
    downscale: int = 2,
    block: int = 31,
    offset: float = 10.0,
) -> np.ndarray:
    """The driver (size, size, 3) uint8 RGB of a square (S, S, 3) uint8 image and its [(category, (S, S) bool)].

    The structure in grey (see `background`), the masks in their class colour on top, resized NEAREST; where they
    overlap the smaller wins, or it would be lost. Becomes the paper's input once divided by 255. Raises ValueError when
    the image is not square, a mask is of another size, or `size` is not a multiple of 8.
    """
    if image.shape[0] != image.shape[1] or any(mask.shape != image.shape[:2] for _, mask in masks):
        raise ValueError(f"a driver needs a square image and masks of its size, not {image.shape}: crop them first")
    if size % MULTIPLE:
        raise ValueError(f"the side of a driver must be a multiple of {MULTIPLE}, not {size}")
    hidden = np.any([mask for _, mask in masks], axis=0) if masks else None
    structure = background(image, size, hidden=hidden, downscale=downscale, block=block, offset=offset)
    painted = np.repeat(structure[..., None], 3, axis=2)
    for category, mask in sorted(masks, key=lambda pair: -np.count_nonzero(pair[1])):
        painted[resize_mask(mask, (size, size))] = colours[category]
    return painted


def without_defects(drivers: np.ndarray) -> np.ndarray:
    """Drivers (..., 3) uint8 with plain surface in place of their painted masks."""
    grey = drivers.max(axis=-1, keepdims=True) == drivers.min(axis=-1, keepdims=True)
    return np.where(grey, drivers, np.uint8(BACKGROUND_MAX))


def driver_problems(driver: np.ndarray, colours: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """What is wrong with a driver, a sentence each; empty when it keeps the contract that the generator relies on."""
    if driver.dtype != np.uint8 or driver.ndim != 3 or driver.shape[2] != 3:
        return [f"is {driver.dtype} of shape {driver.shape} instead of uint8 (H, W, 3)"]
    problems = []
    if driver.shape[0] % MULTIPLE or driver.shape[1] % MULTIPLE:
        problems.append(f"has sides {driver.shape[1]} x {driver.shape[0]}, not multiples of {MULTIPLE}")
    red, green, blue = cv2.split(driver)
    grey = (red == green) & (green == blue)
    in_colour = np.zeros_like(grey)
    for r, g, b in colours.values():
        in_colour |= (red == r) & (green == g) & (blue == b)
    if too_bright := np.count_nonzero(grey & (red > BACKGROUND_MAX)):
        problems.append(f"has {too_bright} background pixels above {BACKGROUND_MAX} of 255")
    if foreign := np.count_nonzero(~grey & ~in_colour):
        problems.append(f"has {foreign} pixels that are neither grey nor exactly a class colour")
    return problems


def _hue(hue: float) -> tuple[int, int, int]:
    """RGB 0..255 of a hue in 0..1 at full saturation and value."""
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 1.0, 1.0))
    return red, green, blue


def _without(grey: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Grey (s, s) with what `hidden` (S, S bool) touches, and MARGIN around it, filled in from the surroundings."""
    touched = cv2.resize(hidden.astype(np.float32), grey.shape[::-1], interpolation=cv2.INTER_AREA) > 0
    wide = cv2.dilate(touched.astype(np.uint8), np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8))
    if wide.all():
        return np.zeros_like(grey)
    return cv2.inpaint(np.where(wide, 0, grey).astype(np.uint8), wide, 3, cv2.INPAINT_TELEA)
