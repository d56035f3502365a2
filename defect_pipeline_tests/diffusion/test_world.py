import torch

from defect_pipeline.diffusion.world import MARKS, draw_surfaces


def test_surfaces_follow_the_seed_and_vary():
    first, again = (draw_surfaces(6, 32, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.images, again.images) and first.captions == again.captions
    assert first.images.shape == (6, 3, 32, 32) and first.images.min() >= 0 and first.images.max() <= 1
    assert (first.images[0] - first.images[1]).abs().mean() > 0.02


def test_captions_name_the_mark_and_masks_are_empty_without_one():
    drawn = draw_surfaces(80, 32, torch.Generator().manual_seed(0), marked=0.5)
    assert {mark for mark in drawn.marks if mark} >= set(MARKS[:3])
    for caption, mark, mask in zip(drawn.captions, drawn.marks, drawn.masks, strict=True):
        assert caption.startswith("an image of a ")
        assert (f"{mark} defect" in caption) == bool(mark) == bool(mask.any())


def test_a_mark_changes_the_surface_under_its_mask():
    drawn = draw_surfaces(60, 64, torch.Generator().manual_seed(1), marked=1.0)
    grey, masks = drawn.images.mean(1), drawn.masks
    wide = torch.nn.functional.max_pool2d(masks[:, None].float(), 9, 1, 4)[:, 0] > 0
    differences = [
        abs(g[m].mean() - g[w & ~m].mean()).item() for g, m, w in zip(grey, masks, wide, strict=True) if m.sum() > 20
    ]
    assert sorted(differences)[len(differences) // 2] > 0.05
