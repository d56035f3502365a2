import cv2
import numpy as np
import pytest

from defect_pipeline.evaluation.shapes import MEASURES, distances, measures, novelty


def disc(radius: int) -> np.ndarray:
    mask = np.zeros((128, 128), np.uint8)
    cv2.circle(mask, (64, 64), radius, 1, -1)
    return mask.astype(bool)


def bar(length: int, width: int = 4) -> np.ndarray:
    mask = np.zeros((128, 128), bool)
    mask[60 : 60 + width, 10 : 10 + length] = True
    return mask


def test_measures_of_a_disc_and_of_a_bar():
    round_, long = measures(disc(30)), measures(bar(80))
    assert round_["elongation"] > 0.95 and round_["solidity"] > 0.97 and round_["roundness"] > 0.85
    assert long["elongation"] == pytest.approx(4 / 80) and long["solidity"] == pytest.approx(1)
    assert long["log area"] == pytest.approx(np.log(320)) and long["log length"] == pytest.approx(np.log(80))
    assert long["roundness"] < 0.3


def test_a_single_pixel_has_measures():
    mask = np.zeros((8, 8), bool)
    mask[3, 3] = True
    assert measures(mask)["log area"] == 0 and all(np.isfinite(list(measures(mask).values())))


def test_masks_of_one_kind_are_near_and_others_far():
    real = [disc(r) for r in range(10, 40, 2)]
    near, far = (
        distances([disc(r) for r in range(11, 40, 2)], real),
        distances([bar(n) for n in range(20, 80, 4)], real),
    )
    assert set(near) == set(MEASURES)
    assert max(near["log area"], near["log length"]) < 0.3 and far["elongation"] > 3 > near["elongation"]


def test_novelty_is_none_for_known_shapes():
    known = [disc(20), bar(60)]
    assert novelty(known, known) == 0
    assert novelty([disc(10)], known) == pytest.approx(1 - disc(10).sum() / disc(20).sum())
