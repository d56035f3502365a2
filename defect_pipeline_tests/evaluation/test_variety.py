import numpy as np
import pytest

from defect_pipeline.evaluation.variety import mutual_information, variety


def noise(n: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, 40, 40, 3)).astype(np.uint8))


def test_equal_images_have_no_variety_and_share_all_they_tell():
    image, mask = noise(1, 0)[0], np.ones((40, 40), bool)
    same, different = (variety(np.array([pair]), mask[None]) for pair in ([image, image], noise(2, 1)))
    assert same.l2 == same.l2_under_masks == 0 and different.l2 > 90
    assert same.mutual_information > 2 > different.mutual_information > 0


def test_what_differs_under_the_mask_alone_is_seen_there():
    image, mask = noise(1, 0)[0], np.zeros((40, 40), bool)
    mask[:10, :10] = True
    other = image.copy()
    other[mask] = 255 - other[mask]
    found = variety(np.array([[image, other]] * 3), np.array([mask] * 3))
    assert found.l2_under_masks > 100 and found.l2 == pytest.approx(found.l2_under_masks * (100 / 1600) ** 0.5)
    assert (found.conditions, found.samples) == (3, 2)


def test_mutual_information_in_nats():
    rows = np.repeat([0, 255], 20)[:, None].repeat(40, axis=1).astype(np.uint8)
    assert mutual_information(rows, rows) == mutual_information(rows, 255 - rows) == pytest.approx(np.log(2))
    assert mutual_information(rows, rows.T) == pytest.approx(0)  # rows say nothing of columns
