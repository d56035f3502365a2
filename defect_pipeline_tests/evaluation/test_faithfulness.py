import numpy as np
import pytest

from defect_pipeline.evaluation.faithfulness import change, twin_figures


def case(inside: int, near: int, far: int, side: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, a twin that differs by so many grey levels under, around and far from the mask, and the mask."""
    image = np.full((100, 100, 3), 100, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[40 : 40 + side, 40 : 40 + side] = True
    twin = image + np.uint8(far)
    twin[30 : 50 + side, 30 : 50 + side] = 100 + near
    twin[mask] = 100 - inside
    return image, twin, mask


def test_change_is_the_mean_absolute_difference_over_channels():
    a, b = np.zeros((1, 1, 3), np.uint8), np.array([[[3, 0, 9]]], np.uint8)
    assert change(a, b)[0, 0] == change(b, a)[0, 0] == 4


def test_ratios_say_where_the_change_stands():
    figures = twin_figures(*([x] * 3 for x in case(inside=60, near=20, far=5)))
    assert figures.inside == 60 and figures.ratio_near == pytest.approx(3.0) and figures.n == 3
    assert 3 < figures.ratio < 12
    ignoring = twin_figures(*([x] for x in case(inside=10, near=10, far=10)))
    assert ignoring.ratio == ignoring.ratio_near == 1.0


def test_no_change_outside_is_infinitely_faithful_and_the_median_stands_it():
    cases = [case(50, 0, 0), case(50, 10, 10), case(50, 10, 10)]
    figures = twin_figures(*zip(*cases, strict=True))
    assert twin_figures(*([x] for x in cases[0])).ratio == float("inf") and figures.ratio == pytest.approx(5.0)


def test_small_masks_are_held_to_less():
    assert twin_figures(*([x] for x in case(50, 10, 10))).wanted == 3.0
    assert twin_figures(*([x] for x in case(50, 10, 10, side=5))).wanted == 2.0
