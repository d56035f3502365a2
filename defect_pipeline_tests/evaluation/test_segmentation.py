import math
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval
from scipy.spatial.distance import directed_hausdorff

from defect_pipeline.evaluation import segmentation
from defect_pipeline.evaluation.segmentation import (
    average_precision,
    group_resamples,
    hausdorff,
    mask_iou,
    match,
    resampled_map,
    segmentation_figures,
)

SIZE = (30, 40)  # a diagonal of 50 px
DIAGONAL = 50.0


@dataclass
class Seen:
    masks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def seen(*instances: tuple[int, np.ndarray, float]) -> Seen:
    boxes = []
    for _, mask, _ in instances:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return Seen(
        masks=np.array([mask for _, mask, _ in instances], bool).reshape(-1, *SIZE),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in instances], np.float32),
        labels=np.array([label for label, *_ in instances], np.int64),
    )


A, B = rectangle(2, 2, 10, 8), rectangle(20, 10, 8, 10)


def test_perfect_predictions():
    figures = segmentation_figures([[(0, A), (1, B)], []], [seen((0, A, 0.9), (1, B, 0.8)), seen()], ["crack", "pit"])
    assert (figures.segm_map, figures.segm_ap50, figures.bbox_map) == pytest.approx((1, 1, 1))
    assert figures.segm_ap_by_class == pytest.approx({"crack": 1, "pit": 1})
    assert (figures.iou, figures.hd, figures.strict_iou, figures.strict_hd, figures.strict_hd95) == (1, 0, 1, 0, 0)
    assert (figures.n_images, figures.n_instances, figures.n_matched) == (2, 2, 2)


def test_nothing_detected_is_zero_and_one():
    figures = segmentation_figures([[(0, A)], [(0, B)], []], [seen(), seen(), seen()], ["crack"])
    assert (figures.segm_map, figures.segm_ap50, figures.bbox_map, figures.iou, figures.hd) == (0, 0, 0, 0, 1)
    assert figures.strict_iou == pytest.approx(1 / 3)  # right about the clean image alone
    assert figures.strict_hd == figures.strict_hd95 == pytest.approx(2 / 3)


def test_a_class_without_annotations_is_not_averaged():
    figures = segmentation_figures([[(0, A)]], [seen((0, A, 0.9))], ["crack", "pit"])
    assert figures.segm_map == pytest.approx(1) and math.isnan(figures.segm_ap_by_class["pit"])
    assert math.isnan(segmentation_figures([[]], [seen()], ["crack"]).segm_map)


def test_average_precision_by_hand():
    """IoU 8/12 passes the thresholds .50 .55 .60 .65; the box misses by as much."""
    shifted = rectangle(4, 2, 10, 8)
    assert mask_iou(A, shifted) == pytest.approx(64 / 96)
    figures = segmentation_figures([[(0, A)]], [seen((0, shifted, 0.9))], ["crack"])
    assert figures.segm_map == figures.bbox_map == pytest.approx(0.4)
    assert figures.segm_ap50 == pytest.approx(1)


def test_boxes_and_masks_are_judged_apart():
    hollow = A & ~rectangle(4, 3, 6, 6)  # the same box, 44 of 80 px
    figures = segmentation_figures([[(0, A)]], [seen((0, hollow, 0.9))], ["crack"])
    assert figures.bbox_map == pytest.approx(1)
    assert figures.segm_map == pytest.approx(0.2)  # .55 is 44/80, so .50 and .55 pass


def test_average_precision_is_what_pycocotools_summarises(capsys, monkeypatch):
    rng = np.random.default_rng(0)
    truth, answers = [], []
    for _ in range(12):
        boxes = [(int(k), int(x), int(y)) for k, x, y in rng.integers((0, 0, 0), (3, 25, 15), (3, 3))]
        truth.append([(k, rectangle(x, y, 9, 9)) for k, x, y in boxes])
        moved = [
            (k, x + int(dx), y, s) for (k, x, y), dx, s in zip(boxes, rng.integers(0, 5, 3), rng.random(3), strict=True)
        ]
        answers.append(seen(*sorted(((k, rectangle(x, y, 9, 9), s) for k, x, y, s in moved), key=lambda i: -i[2])))
    evaluations = []

    class Recorded(COCOeval):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            evaluations.append(self)

    monkeypatch.setattr(segmentation, "COCOeval", Recorded)
    precision = average_precision(truth, answers, 3, "segm")
    assert capsys.readouterr().out == ""  # quiet
    reference = COCOeval(evaluations[0].cocoGt, evaluations[0].cocoDt, "segm")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert 0.1 < precision.mean() < 0.9
    assert precision[precision > -1].mean() == pytest.approx(reference.stats[0])
    assert precision[0][precision[0] > -1].mean() == pytest.approx(reference.stats[1])


def test_false_alarm_and_unsure_detection():
    figures = segmentation_figures([[(0, A)], []], [seen((0, A, 0.4)), seen((0, B, 0.9))], ["crack"])
    assert figures.segm_ap50 == pytest.approx(0.5)  # the surest one is wrong
    assert (figures.iou, figures.hd, figures.n_matched) == (0, 1, 0)  # what is right is not sure enough
    assert (figures.strict_iou, figures.strict_hd, figures.strict_hd95) == (0, 1, 1)
    assert segmentation_figures([[(0, A)]], [seen((0, A, 0.4))], ["crack"], score=0.3).iou == 1


def test_paper_reading_looks_at_matches_only_and_strict_at_all_images():
    shifted = rectangle(4, 2, 10, 8)
    figures = segmentation_figures([[(0, A)], [(0, B)]], [seen((0, shifted, 0.9)), seen()], ["crack"])
    assert (figures.iou, figures.hd) == (pytest.approx(2 / 3), pytest.approx(2 / DIAGONAL))
    assert figures.strict_iou == pytest.approx((2 / 3 + 0) / 2)
    assert figures.strict_hd == pytest.approx((2 / DIAGONAL + 1) / 2)


def test_strict_reading_ignores_class_and_instance():
    whole, left, right = rectangle(2, 2, 10, 8), rectangle(2, 2, 5, 8), rectangle(7, 2, 5, 8)
    figures = segmentation_figures([[(0, whole)]], [seen((1, left, 0.9), (0, right, 0.8))], ["crack", "pit"])
    assert figures.strict_iou == 1 and figures.strict_hd == 0


def test_matching_is_by_class_and_one_to_one():
    near = rectangle(3, 2, 10, 8)
    assert match([(0, A)], np.stack([A]), np.array([1])) == []
    assert len(match([(0, A)], np.stack([near, A]), np.array([0, 0]))) == 1  # the second has nothing left
    (truth, found), *rest = match([(0, B), (0, A)], np.stack([near]), np.array([0]))
    assert truth is A and np.array_equal(found, near) and not rest


def test_hausdorff_by_hand():
    assert hausdorff(A, A) == 0
    assert hausdorff(rectangle(0, 0, 1, 1), rectangle(3, 4, 1, 1)) == pytest.approx(5 / DIAGONAL)
    empty = np.zeros(SIZE, bool)
    assert hausdorff(empty, empty) == 0 and hausdorff(A, empty) == hausdorff(empty, A) == 1
    assert mask_iou(empty, empty) == 1 and mask_iou(A, empty) == 0


def test_hausdorff_takes_the_worse_direction_and_hd95_forgives_a_speck():
    line = rectangle(0, 5, 40, 1)
    speck = line | rectangle(0, 25, 1, 1)
    assert hausdorff(line, speck) == hausdorff(speck, line) == pytest.approx(20 / DIAGONAL)
    assert hausdorff(line, speck, percentile=95) == 0


def test_hausdorff_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = (rectangle(*(int(v) for v in rng.integers((0, 0, 1, 1), (25, 20, 15, 10)))) for _ in range(2))
        edges = []
        for mask in (a, b):
            padded = np.pad(mask, 1)
            inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
            edges.append(np.argwhere(mask & ~inner))
        expected = max(directed_hausdorff(*edges)[0], directed_hausdorff(*edges[::-1])[0])
        assert hausdorff(a, b) == pytest.approx(expected / DIAGONAL, rel=1e-5)


def test_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="2 annotated images against 1"):
        segmentation_figures([[], []], [seen()], ["crack"])


def test_a_resample_has_the_average_precision_of_its_images():
    rng = np.random.default_rng(0)
    truth = [
        [(int(k), rectangle(int(x), 2, 10, 8))]
        for k, x in zip(rng.integers(0, 2, 8), rng.integers(0, 20, 8), strict=True)
    ]
    found = [
        seen((k, rectangle(int(rng.integers(0, 20)), 2, 10, 8), 0.4), (k, mask, float(rng.random())))
        for ((k, mask),) in truth
    ]
    everything, some = np.arange(8), np.array([0, 0, 3, 5, 5, 5, 7])
    figures = resampled_map(truth, found, 2, [everything, some, everything])
    for chosen, figure in zip((everything, some), figures[:2], strict=True):
        expected = average_precision([truth[i] for i in chosen], [found[i] for i in chosen], 2, "segm")
        assert figure == pytest.approx(expected[expected > -1].mean())
    assert figures[2] == figures[0]


def test_images_of_one_group_are_drawn_together():
    draws = group_resamples(["a", "b", "a", "c"], 50, seed=1)
    assert all(np.count_nonzero(draw == 0) == np.count_nonzero(draw == 2) for draw in draws)
    assert {len(draw) for draw in draws} > {3} and len({tuple(draw) for draw in draws}) > 10
    assert all(
        np.array_equal(a, b) for a, b in zip(draws, group_resamples(["a", "b", "a", "c"], 50, seed=1), strict=True)
    )
