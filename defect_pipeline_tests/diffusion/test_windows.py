import torch

from defect_pipeline.diffusion.windows import cut, draw_corners, shows_windows


def test_every_window_lies_inside_and_holds_a_point_of_its_mask():
    masks = torch.zeros(200, 20, 24, dtype=torch.bool)
    masks[:, 0, 0] = masks[:, 19, 23] = True  # where a window has the least room
    corners = draw_corners(masks, 8, torch.Generator().manual_seed(0))
    windows = cut(masks, corners, 8)
    assert windows.shape == (200, 8, 8) and windows.flatten(1).any(1).all()
    assert len({tuple(c) for c in corners.tolist()}) == 2  # both corners of the picture are visited


def test_the_point_stands_anywhere_in_its_window():
    masks = torch.zeros(500, 32, 32, dtype=torch.bool)
    masks[:, 16, 16] = True
    corners = draw_corners(masks, 8, torch.Generator().manual_seed(0))
    assert {tuple(c) for c in (16 - corners).tolist()} == {(y, x) for y in range(8) for x in range(8)}


def test_without_a_mask_windows_lie_everywhere():
    corners = draw_corners(torch.zeros(500, 16, 16, dtype=torch.bool), 8, torch.Generator().manual_seed(0))
    assert corners.min() == 0 and corners.max() == 8 and len(corners.unique(dim=0)) > 50


def test_a_window_of_the_whole_is_the_whole():
    maps = torch.randn(3, 5, 16, 16)
    corners = draw_corners(torch.ones(3, 16, 16, dtype=torch.bool), 16, torch.Generator().manual_seed(0))
    assert torch.equal(cut(maps, corners, 16), maps)


def test_one_step_of_four_shows_the_whole():
    assert [shows_windows(step) for step in range(8)] == [True, True, True, False] * 2
