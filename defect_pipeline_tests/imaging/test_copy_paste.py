import numpy as np

from defect_pipeline.imaging.copy_paste import paste_defect


def surface(level: int, hole: int | None = None) -> np.ndarray:
    image = np.full((64, 64, 3), level, np.uint8)
    if hole is not None:
        image[28:36, 28:36] = hole
    return image


MASK = np.zeros((64, 64), bool)
MASK[28:36, 28:36] = True


def test_the_defect_arrives_in_the_tone_of_its_new_surface_and_leaves_the_rest():
    pasted = paste_defect(surface(180), surface(120, hole=40), MASK)
    assert abs(int(pasted[32, 32, 0]) - (40 + 60)) <= 1
    assert np.array_equal(pasted[:16], surface(180)[:16]) and np.array_equal(pasted[32, :16], surface(180)[32, :16])


def test_pasting_plain_surface_shows_no_seam():
    pasted = paste_defect(surface(180), surface(90), MASK)
    assert np.abs(pasted.astype(int) - 180).max() <= 1


def test_a_mask_at_the_edge_of_the_picture_is_pasted_too():
    mask = np.zeros((64, 64), bool)
    mask[:6, :6] = True
    source = surface(120)
    source[mask] = 20
    assert paste_defect(surface(120), source, mask)[0, 0, 0] < 40
    assert np.array_equal(paste_defect(surface(120), source, np.ones((64, 64), bool)), source)
