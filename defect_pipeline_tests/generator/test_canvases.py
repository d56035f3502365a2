import numpy as np
import pytest

from defect_pipeline.generator.canvases import MARGIN, Canvases, image_seed, image_seeds, in_turn, strength_map


def test_strength_falls_from_the_mask_to_the_surroundings():
    mask = np.zeros((64, 64), bool)
    mask[:, 10] = True
    row = strength_map(mask, 0.2, fade=10)[32]
    assert (row[10 - MARGIN : 11 + MARGIN] == 1).all() and (row[10 + MARGIN + 10 :] == np.float32(0.2)).all()
    assert row[10 + MARGIN + 5] == pytest.approx(0.6) and (np.diff(row[10:]) <= 0).all()


def test_without_a_fade_there_is_a_step():
    mask = np.zeros((16, 16), bool)
    mask[8, 8] = True
    strengths = strength_map(mask, 0.3, fade=0)
    assert set(strengths.ravel().tolist()) == {1.0, float(np.float32(0.3))}
    assert strengths[8, 8 + MARGIN] == 1 and strengths[8, 8 + MARGIN + 1] < 1


def test_a_slice_of_canvases_is_of_the_same_class():
    drivers = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    some = Canvases("pit", drivers, drivers, drivers[..., 0] > 0)[1:3]
    assert some.defect_class == "pit" and some.drivers.ravel()[::3].tolist() == [1, 2] and some.masks.shape == (2, 1, 1)


def test_the_noise_of_an_image_does_not_hang_on_how_many_are_asked_for():
    assert image_seeds(3, "pit", "twin", 5)[:2] == image_seeds(3, "pit", "twin", 2)
    assert image_seeds(3, "pit", "twin", 2)[1] == image_seed(3, "pit", "twin/1") != image_seed(3, "dent", "twin/1")


def test_images_come_in_turn():
    assert [int(image) for image in in_turn([np.array(0), np.array(1)], 5)] == [0, 1, 0, 1, 0]
