import math

import cv2
import numpy as np
import pytest

from defect_pipeline.evaluation.reconstruction import reconstruction

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(60, 200, (64, 64, 3), dtype=np.uint8)
NOTHING = np.zeros((64, 64), bool)


def test_psnr_is_that_of_a_known_error():
    figures = reconstruction([IMAGE], [IMAGE + np.uint8(5)], [NOTHING])
    assert figures.psnr == pytest.approx(20 * math.log10(255 / 5))
    assert math.isnan(figures.psnr_defects) and figures.gradient_energy == pytest.approx(1.0) and figures.n == 1


def test_blur_loses_gradient_energy():
    blurred = cv2.GaussianBlur(IMAGE, (0, 0), 2)
    assert reconstruction([IMAGE, IMAGE], [blurred, blurred], [NOTHING, NOTHING]).gradient_energy < 0.1


def test_an_error_under_the_mask_counts_there():
    decoded, mask = IMAGE.copy(), NOTHING.copy()
    mask[10:20, 10:20] = True
    decoded[mask] += 20
    figures = reconstruction([IMAGE], [decoded], [mask])
    assert figures.psnr_defects == pytest.approx(20 * math.log10(255 / 20)) and figures.psnr > figures.psnr_defects + 10
    assert reconstruction([IMAGE], [IMAGE], [mask]).psnr == math.inf
