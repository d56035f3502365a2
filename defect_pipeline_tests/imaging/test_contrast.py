import math

import numpy as np
import pytest

from defect_pipeline.imaging.contrast import LEAST, contrast, matching_scale, typical_contrast, with_changes

MASK = np.zeros((32, 32), bool)
MASK[10:20, 10:20] = True


def surface(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(120, 5, (32, 32, 3)).clip(0, 255).astype(np.uint8)


def marked(by: float, seed: int = 0) -> np.ndarray:
    image = surface(seed).astype(float)
    image[MASK] += by
    return image.clip(0, 255).astype(np.uint8)


def test_contrast_is_the_shift_as_a_share_of_the_surroundings():
    assert contrast(marked(-60), MASK) == pytest.approx(0.5, abs=0.03)
    assert contrast(marked(60), MASK) == pytest.approx(0.5, abs=0.03)
    assert contrast(surface(), MASK) < 0.02


def test_another_spread_is_a_contrast_too():
    """A scratch of bright and dark lines has the mean of its surroundings."""
    image = surface().astype(float)
    image[10:20:2, 10:20] += 40
    image[11:20:2, 10:20] -= 40
    assert contrast(image.clip(0, 255).astype(np.uint8), MASK) > 0.25


def test_without_a_mask_or_surroundings_there_is_none():
    assert math.isnan(contrast(surface(), np.zeros_like(MASK))) and math.isnan(contrast(surface(), np.ones_like(MASK)))
    assert math.isnan(typical_contrast([surface()], [np.zeros_like(MASK)]))
    assert typical_contrast([surface(), marked(-60)], [np.zeros_like(MASK), MASK]) == contrast(marked(-60), MASK)


@pytest.mark.parametrize("painted", [-100, -70, 90])
def test_changes_are_toned_down_to_the_contrast_that_is_wanted(painted: int):
    backgrounds = np.stack([surface(k) for k in range(4)])
    changes = np.zeros(backgrounds.shape, np.int16)
    changes[:, MASK] = painted
    scale = matching_scale(backgrounds, changes, np.stack([MASK] * 4), 0.5)
    assert scale == pytest.approx(60 / abs(painted), rel=0.06)
    made = with_changes(backgrounds, changes, scale)
    assert typical_contrast(made, [MASK] * 4) == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(made[:, ~MASK], backgrounds[:, ~MASK])


def test_a_scale_has_bounds():
    backgrounds, masks = surface()[None], MASK[None]
    changes = np.zeros(backgrounds.shape, np.int16)
    changes[:, MASK] = -100
    assert matching_scale(backgrounds, changes, masks, 0.05) == LEAST
    assert matching_scale(backgrounds, changes, masks, 0.95) == 1  # what is faint stays so
    assert matching_scale(backgrounds, changes, masks, math.nan) == 1
    assert matching_scale(backgrounds, changes, np.ones_like(masks), 0.5) == 1


def test_what_is_toned_down_stays_visible():
    """Of a real defect hardly brighter than its surroundings: the label would lie on nothing."""
    backgrounds, masks = surface()[None], MASK[None]
    changes = np.zeros(backgrounds.shape, np.int16)
    changes[:, MASK] = -20
    assert matching_scale(backgrounds, changes, masks, 0.02) < 0.35
    assert matching_scale(backgrounds, changes, masks, 0.02, visible=8.0) == pytest.approx(0.4)
    assert matching_scale(backgrounds, changes, masks, 0.02, visible=30.0) == 1


def test_what_image_and_twin_have_in_common_cancels():
    """A generator that paints the whole surface too blue leaves nothing of it on the background."""
    background = surface()[None]
    twin = np.full_like(background, (90, 90, 140))
    image = twin.copy()
    image[:, MASK] = 30
    made = with_changes(background, image.astype(np.int16) - twin)
    assert np.array_equal(made[:, ~MASK], background[:, ~MASK])
    assert np.array_equal(made[:, MASK].astype(int), np.clip(background[:, MASK].astype(int) - (60, 60, 110), 0, 255))
