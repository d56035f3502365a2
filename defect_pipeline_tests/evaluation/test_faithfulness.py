import numpy as np
import pytest

from defect_pipeline.evaluation.faithfulness import TwinFigures, change, refined_mask, twin_figures, twin_table


def case(inside: int, near: int, far: int, side: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, a twin that differs by so many grey levels under, around and far from the mask, and the mask."""
    image = np.full((100, 100, 3), 100, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[40 : 40 + side, 40 : 40 + side] = True
    twin = image + np.uint8(far)
    twin[30 : 50 + side, 30 : 50 + side] = 100 + near
    twin[mask] = 100 - inside
    return image, twin, mask


def figures_of(cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> TwinFigures:
    return twin_figures(twin_table(*zip(*cases, strict=True)))


def test_change_is_the_mean_absolute_difference_over_channels():
    a, b = np.zeros((1, 1, 3), np.uint8), np.array([[[3, 0, 9]]], np.uint8)
    assert change(a, b)[0, 0] == change(b, a)[0, 0] == 4


def test_ratios_say_where_the_change_stands():
    figures = figures_of([case(inside=60, near=20, far=5)] * 3)
    assert figures.inside == 60 and figures.ratio_near == pytest.approx(3.0) and figures.n == 3
    assert 3 < figures.ratio < 12
    ignoring = figures_of([case(inside=10, near=10, far=10)])
    assert ignoring.ratio == ignoring.ratio_near == 1.0


def test_no_change_outside_is_infinitely_faithful_and_the_median_stands_it():
    cases = [case(50, 0, 0), case(50, 10, 10), case(50, 10, 10)]
    figures = figures_of(cases)
    assert figures_of(cases[:1]).ratio == float("inf") and figures.ratio == pytest.approx(5.0)


def test_small_masks_are_held_to_less():
    assert figures_of([case(50, 10, 10)]).wanted(3.0) == 3.0
    assert figures_of([case(50, 10, 10, side=5)]).wanted(3.0) == 2.0


def test_a_twin_that_changed_nowhere_is_not_faithful():
    assert figures_of([case(0, 0, 0)]).ratio == 0.0


def test_a_mask_that_was_shifted_is_not_faithful():
    """The fault planted: labels 20 px beside what was painted."""
    image, twin, mask = case(inside=60, near=5, far=1)
    assert figures_of([(image, twin, mask)]).ratio > 3 > figures_of([(image, twin, np.roll(mask, 20, axis=1))]).ratio


def test_a_mask_is_refined_to_what_is_to_be_seen():
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    changed = np.zeros((64, 64))
    changed[24:44, 20:36] = 80.0  # lower and narrower than asked for
    refined = refined_mask(changed, mask)
    seen = changed > 0
    assert (refined & seen).sum() / (refined | seen).sum() > 0.85 > (mask & seen).sum() / (mask | seen).sum()


@pytest.mark.parametrize("changed", [(20, 22), (0, 64)], ids=["a sliver", "everywhere"])
def test_a_change_unlike_the_mask_leaves_it_as_it_is(changed: tuple[int, int]):
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    rows = np.zeros((64, 64))
    rows[changed[0] : changed[1]] = np.random.default_rng(0).uniform(60, 90, (changed[1] - changed[0], 64))
    assert np.array_equal(refined_mask(rows, mask), mask)
