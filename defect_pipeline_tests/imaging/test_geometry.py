"""The square crop must hold the defect, and no resize may lose or tear a thin mask."""

import cv2
import numpy as np
import pytest

from defect_pipeline.imaging.geometry import (
    SURROUNDINGS,
    crop_resize,
    resize_mask,
    short_side_resize,
    square_crop,
)


def _block(shape: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _pieces(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


@pytest.mark.parametrize("shape", [(100, 300), (300, 100), (100, 100)])
def test_without_focus_the_crop_is_the_largest_square_in_the_middle(shape: tuple[int, int]) -> None:
    assert square_crop(shape) == ((shape[1] - 100) // 2, (shape[0] - 100) // 2, 100)


@pytest.mark.parametrize("left", [0, 40, 150, 290])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_crop_holds_the_whole_defect_wherever_it_is(left: int, rng: np.random.Generator | None) -> None:
    focus = _block((100, 300), 30, left, 20, 10)
    x, y, side = square_crop(focus.shape, focus, rng)
    assert side == 100 and 0 <= x <= 200 and y == 0
    assert focus[y : y + side, x : x + side].sum() == focus.sum()


def test_a_defect_wider_than_the_square_is_held_as_far_as_possible() -> None:
    focus = _block((100, 400), 40, 50, 20, 250)
    focus[:, 90:110] = True  # the heavy end
    x, y, side = square_crop(focus.shape, focus)
    held = [int(focus[:, start : start + 100].sum()) for start in range(301)]
    assert focus[y : y + side, x : x + side].sum() == max(held)


def test_zoom_goes_to_the_defect_and_stops_at_the_smallest_side() -> None:
    focus = _block((200, 400), 20, 350, 6, 6)
    x, y, side = square_crop(focus.shape, focus, zoom=4)
    assert side == 50 and focus[y : y + side, x : x + side].sum() == 36
    assert square_crop(focus.shape, focus, zoom=4, min_side=80)[2] == 80
    assert square_crop(focus.shape, focus, zoom=4, min_side=999)[2] == 200


def test_zoom_leaves_surroundings_to_a_large_defect() -> None:
    focus = _block((200, 400), 50, 100, 60, 80)
    assert square_crop(focus.shape, focus, zoom=8)[2] == round(80 * SURROUNDINGS)


def test_random_crops_differ_and_repeat_with_the_seed() -> None:
    focus = _block((100, 300), 30, 150, 20, 10)
    crops = [[square_crop(focus.shape, focus, np.random.default_rng(seed)) for seed in range(10)] for _ in range(2)]
    assert crops[0] == crops[1] and len(set(crops[0])) > 5
    assert len({square_crop((100, 300), None, np.random.default_rng(seed)) for seed in range(10)}) > 5


def test_an_empty_focus_is_as_good_as_none() -> None:
    assert square_crop((100, 300), np.zeros((100, 300), dtype=bool)) == square_crop((100, 300))


def test_crop_resize_averages_images_and_keeps_masks_two_valued() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, ::2] = 200
    small = crop_resize(image, (10, 0, 60), 30)
    assert small.shape == (30, 30, 3) and (small == 100).all()
    assert crop_resize(image[..., 0], (10, 0, 60), 30).shape == (30, 30)
    mask = crop_resize(_block((60, 90), 10, 30, 20, 20), (10, 0, 60), 30)
    assert mask.dtype == bool and (mask == _block((30, 30), 5, 10, 10, 10)).all()


@pytest.mark.parametrize(("shape", "small"), [((60, 90), (30, 45)), ((91, 61), (45, 30)), ((15, 40), (30, 80))])
def test_the_short_side_is_brought_to_size_and_the_rest_follows(shape: tuple[int, int], small: tuple[int, int]) -> None:
    assert short_side_resize(np.full((*shape, 3), 7, np.uint8), 30).shape == (*small, 3)
    mask = short_side_resize(_block(shape, 3, 6, 9, 1), 30)
    assert mask.dtype == bool and mask.shape == small and _pieces(mask) == 1


@pytest.mark.parametrize("offset", range(7))
def test_a_one_pixel_crack_survives_shrinking_in_one_piece(offset: int) -> None:
    crack = np.zeros((500, 500), np.uint8)
    cv2.polylines(crack, [np.array([[20 + offset, 30], [200, 210 + offset], [260, 480]])], False, 1, 1)
    small = resize_mask(crack.astype(bool), (128, 128))
    assert _pieces(small) == 1
    assert small.sum() < 200  # and is still thin


@pytest.mark.parametrize("place", [(0, 0), (399, 599), (201, 333), (0, 301)])
def test_a_single_pixel_survives_shrinking(place: tuple[int, int]) -> None:
    mask = _block((400, 600), *place, 1, 1)
    small = resize_mask(mask, (64, 64))
    assert np.argwhere(small).tolist() == [[place[0] * 64 // 400, place[1] * 64 // 600]]


def test_a_thin_strip_at_the_edge_survives_shrinking() -> None:
    assert resize_mask(_block((512, 512), 511, 0, 1, 512), (64, 64))[-1].all()


def test_large_shapes_are_resized_by_nearest_alone() -> None:
    disc = np.zeros((512, 512), np.uint8)
    cv2.circle(disc, (256, 250), 150, 1, -1)
    nearest = cv2.resize(disc, (128, 128), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    assert np.count_nonzero(resize_mask(disc.astype(bool), (128, 128)) != nearest) <= 0.01 * nearest.sum()


def test_enlarging_keeps_every_pixel() -> None:
    mask = np.random.default_rng(0).random((20, 30)) < 0.3
    assert (resize_mask(mask, (60, 90)) == mask.repeat(3, axis=0).repeat(3, axis=1)).all()
