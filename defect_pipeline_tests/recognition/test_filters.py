import numpy as np
import pytest
import torch
from scipy import ndimage

from defect_pipeline.recognition.filters import FILTERS, SIGMAS, filter_bank

GREY, MEAN, GRADIENT, RIDGE, VALLEY, DEVIATION = range(6)  # of the first scale; five more for each further one


def textured(n: int = 2, height: int = 40, width: int = 56) -> torch.Tensor:
    grey = torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    return grey.expand(-1, 3, -1, -1).clone()


def test_light_and_contrast_make_no_difference():
    images = textured()
    bank = filter_bank(images)
    assert bank.shape == (2, FILTERS, 40, 56) and bank.isfinite().all()
    brighter = filter_bank(images * 2 - 0.5)
    # which is twice the contrast; a little of the difference is what `FLAT` adds
    assert (brighter[:, :-2] - bank[:, :-2]).abs().max() < 0.3 * bank[:, :-2].abs().max()
    assert torch.corrcoef(torch.stack([brighter[:, :-2].flatten(), bank[:, :-2].flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("scale", range(len(SIGMAS)))
def test_means_and_gradients_are_those_of_scipy(scale: int):
    bank = filter_bank(textured())[1].sinh().numpy()
    blurred = ndimage.gaussian_filter(
        bank[GREY], SIGMAS[scale], mode="nearest", truncate=round(3 * SIGMAS[scale]) / SIGMAS[scale]
    )
    np.testing.assert_allclose(bank[MEAN + 5 * scale], blurred, atol=1e-4)
    gradient = SIGMAS[scale] * np.hypot(*np.gradient(blurred))
    inner = np.s_[1:-1, 1:-1]  # at the border numpy looks one way only
    np.testing.assert_allclose(bank[GRADIENT + 5 * scale][inner], gradient[inner], atol=1e-4)


def test_a_dark_line_curves_upward_across_and_not_along():
    image = torch.full((1, 3, 33, 33), 0.5)
    image[..., 16] = 0.2
    bank = filter_bank(image)[0]
    assert bank[RIDGE, 16, 16] > 1 and bank[VALLEY, 16, 16].abs() < 0.1
    assert bank[RIDGE, 16, 4].abs() < 0.1


def test_the_last_two_are_distances_to_the_borders():
    down, right = filter_bank(textured(1, 32, 64))[0, -2:].sinh() * 16
    assert (down[0, 0], down[15, 7], down[31, 3]) == pytest.approx((0, 15, 0), abs=1e-4)
    assert (right[0, 0], right[3, 31], right[9, 62]) == pytest.approx((0, 31, 1), abs=1e-4)


def test_an_even_image_answers_zero():
    assert filter_bank(torch.full((1, 3, 20, 20), 0.3))[:, :-2].abs().max() < 1e-3
