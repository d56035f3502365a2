import numpy as np
import pytest
import torch

from defect_pipeline.evaluation.segmentation import segmentation_figures
from defect_pipeline.recognition.pixels import PixelSegmentor, _instances
from defect_pipeline.recognition.segmentor import build_segmentor, predict, train_segmentor
from defect_pipeline_tests.recognition.test_segmentor import drawn


def test_learns_from_few_images_what_holds_for_others():
    model = build_segmentor(2, 64)
    assert isinstance(model, PixelSegmentor)
    images, masks = drawn(24)
    for _ in train_segmentor(model, images[:12], masks[:12], steps=60, seed=0, batch=6):
        pass
    figures = segmentation_figures(masks[12:], predict(model, images[12:]), ["square", "bar"])
    assert figures.segm_ap50 > 0.8 and figures.strict_iou > 0.7


@pytest.mark.parametrize("size", [(48, 64), (33, 50)])
@pytest.mark.parametrize("offset", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_quarter_of_the_pixels_is_told_what_all_of_them_are(size: tuple[int, int], offset: tuple[int, int]):
    model = PixelSegmentor(2)
    filters, finest, *coarse = model._seen(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    (top, left), head = offset, model.heads[0]
    quarter = head([filters[..., top::2, left::2], finest[..., top::2, left::2], *coarse], offset)
    whole = head([filters, finest, *coarse])
    assert whole.shape == (2, 3, *size)
    torch.testing.assert_close(quarter, whole[..., top::2, left::2], atol=1e-5, rtol=1e-4)


def test_heads_differ_and_are_averaged():
    model, x = PixelSegmentor(1).eval(), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    answers = torch.stack([head(model._seen(x)).softmax(1) for head in model.heads])
    assert (answers[0] - answers[1]).abs().max() > 1e-4
    torch.testing.assert_close(model._probabilities(x), answers.mean(0))


def test_connected_pixels_are_instances_surest_first():
    p = torch.zeros(3, 20, 30)
    p[1, 2:6, 3:9] = 0.5
    p[1, 12:15, 20:25] = 0.9
    p[2, 10, 5:8] = 0.9  # three pixels are none
    p[0] = 1 - p[1:].sum(0)
    found = _instances(p)
    assert found["labels"].tolist() == [1, 1] and found["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert found["boxes"].tolist() == [[20, 12, 25, 15], [3, 2, 9, 6]]
    assert found["masks"].shape == (2, 1, 20, 30) and found["masks"][1, 0].sum() == 24
    p[2, 3, 4:9] = 0.6  # of another class, on the first instance
    torn = _instances(p)
    assert torn["labels"].tolist() == [1, 1] and torn["masks"][1, 0].sum() == 24
    nothing = _instances(torch.stack([torch.ones(20, 30), torch.zeros(20, 30)]))
    assert nothing["masks"].shape == (0, 1, 20, 30) and nothing["boxes"].shape == (0, 4)


def test_answers_in_the_images_own_pixels_whatever_their_size():
    rng = np.random.default_rng(0)
    sizes = [(50, 70), (64, 64), (33, 32)]
    seen = predict(build_segmentor(1, 64), [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes])
    assert [answer.masks.shape[1:] for answer in seen] == sizes


def test_images_without_a_defect_teach_the_background():
    images = [np.full((32, 32, 3), 120, np.uint8)] * 2
    losses = [
        s.loss.item() for s in train_segmentor(build_segmentor(1, 32), images, [[], []], steps=8, seed=0, batch=2)
    ]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
