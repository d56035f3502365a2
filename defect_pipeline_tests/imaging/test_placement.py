import cv2
import numpy as np
import pytest

from defect_pipeline.imaging.masks import sample_masks
from defect_pipeline.imaging.placement import Placement


def plate(angle: float = 0.0) -> np.ndarray:
    """A bright plate with one dark seam through its middle, turned."""
    image = np.full((128, 128, 3), 170, np.uint8)
    dx, dy = 90 * np.cos(angle), 90 * np.sin(angle)
    cv2.line(image, (round(64 - dx), round(64 - dy)), (round(64 + dx), round(64 + dy)), (40, 40, 40), 3)
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def spot(x: int, y: int) -> np.ndarray:
    mask = np.zeros((128, 128), bool)
    mask[y - 3 : y + 3, x - 3 : x + 3] = True
    return mask


def test_defects_on_a_seam_are_expected_on_seams_however_these_run():
    learned = Placement.fit([(plate(), spot(x, 64)) for x in range(20, 110, 10)])
    places = learned.map(plate(np.pi / 2))  # the seam runs upright here
    assert places[:, 62:67].mean() > 5 * places[:, :40].mean() and (places > 0).all()


def test_masks_are_drawn_to_likely_places():
    learned = Placement.fit([(plate(), spot(x, 64)) for x in range(20, 110, 10)])
    places, everywhere = learned.map(plate()), np.ones((128, 128), bool)
    rng = np.random.default_rng(0)
    drawn = sample_masks([[spot(30, 20)]], everywhere, 40, rng, shift=1.0, likely=places)
    free = sample_masks([[spot(30, 20)]], everywhere, 40, rng, shift=1.0)
    near, chance = (np.mean([masks[0][56:72].any() for masks in found]) for found in (drawn, free))
    assert near > 2 * chance


def test_few_annotations_forbid_no_place_and_none_leave_chance():
    one = Placement.fit([(plate(), spot(60, 64))])
    assert one.map(plate()).min() > 0
    assert Placement.fit([]).map(plate()) == pytest.approx(1.0)


def test_nothing_is_expected_off_the_component():
    image = plate()
    image[:, :40] = 0
    places = Placement.fit([(plate(), spot(60, 64))]).map(image)
    assert places[:, :30].max() == 0 and places[:, 60:].min() > 0
