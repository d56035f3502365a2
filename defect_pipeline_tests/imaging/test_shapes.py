import cv2
import numpy as np
import pytest

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.masks import bbox, instances_of
from defect_pipeline.imaging.shapes import ShapeModel


def ellipses(n: int, seed: int) -> list[np.ndarray]:
    """Upright ellipses two to three times as high as wide."""
    rng, masks = np.random.default_rng(seed), []
    for _ in range(n):
        mask, wide = np.zeros((128, 128), np.uint8), int(rng.integers(6, 11))
        cv2.ellipse(mask, (64, 60), (wide, int(wide * rng.uniform(2, 3))), 0, 0, 360, 1, -1)
        masks.append(mask.astype(bool))
    return masks


def test_new_shapes_look_like_the_annotated_ones_and_are_new():
    known = ellipses(12, 0)
    model, rng = ShapeModel.fit(known), np.random.default_rng(1)
    made = [model.vary(known[0], rng) for _ in range(30)]
    for mask in made:
        _, _, w, h = bbox(mask)
        assert 1.5 < h / w < 3.8 and 20 < h < 70
        assert len(instances_of(mask)) == 1 and mask.sum() > 0.7 * np.pi / 4 * w * h
    assert len({mask.tobytes() for mask in made}) == 30 and not any(np.array_equal(m, k) for m in made for k in known)


def test_a_shape_takes_the_place_of_the_one_it_stands_for():
    known = ellipses(4, 0)
    model = ShapeModel.fit(known)
    corner = np.roll(known[0], (-70, 50), axis=(0, 1))
    corner[:, :20] = False
    mask = model.vary(corner, np.random.default_rng(0))
    assert mask.shape == corner.shape and mask.any()
    x, y, w, h = bbox(mask)
    assert x >= 0 and x + w <= 128 and y >= 0 and y + h <= 128


def test_thin_lines_never_give_an_empty_shape():
    lines = []
    for angle in range(0, 180, 15):
        mask = np.zeros((128, 128), np.uint8)
        dx, dy = 40 * np.cos(np.radians(angle)), 40 * np.sin(np.radians(angle))
        cv2.line(mask, (round(64 - dx), round(64 - dy)), (round(64 + dx), round(64 + dy)), 1, 1)
        lines.append(mask.astype(bool))
    model, rng = ShapeModel.fit(lines), np.random.default_rng(0)
    assert all(model.vary(lines[0], rng).any() for _ in range(40))


def test_the_same_seed_gives_the_same_shape():
    model = ShapeModel.fit(ellipses(5, 0))
    assert np.array_equal(model.sample(np.random.default_rng(3)), model.sample(np.random.default_rng(3)))


def test_one_instance_is_no_model():
    with pytest.raises(PipelineError, match="two annotated instances"):
        ShapeModel.fit(ellipses(1, 0))
