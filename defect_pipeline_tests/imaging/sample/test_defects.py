"""The masks of defects cover what these change in a photograph."""

import cv2
import numpy as np
import pytest

from defect_pipeline.imaging.sample.camera import photograph
from defect_pipeline.imaging.sample.defects import DEFECTS, damage
from defect_pipeline.imaging.sample.part import render_part


@pytest.mark.parametrize("category", list(DEFECTS))
def test_masks_cover_what_the_defect_changes(category: str) -> None:
    inside, outside, caught = [], [], []
    for seed in range(3):
        part = render_part(np.random.default_rng(seed))
        clean = photograph(part, np.random.default_rng(1))[0]
        damage(part, category, np.random.default_rng(seed + 10))
        image, instances = photograph(part, np.random.default_rng(1))
        mask = np.any([found for _, found in instances], axis=0)
        blurred = [cv2.GaussianBlur(picture, (0, 0), 0.7).astype(float) for picture in (image, clean)]
        # the camera meters the whole scene, so a large dark defect makes the rest a little brighter
        metered = np.median(blurred[1][~mask] / np.maximum(blurred[0][~mask], 1))
        change = np.abs(metered * blurred[0] - blurred[1]).mean(axis=2)
        inside.append(change[mask].mean())
        outside.append(change[~mask].mean())
        caught.append(mask[change > 25].mean())
    assert np.mean(inside) > 15
    assert np.mean(inside) > 10 * np.mean(outside)
    assert np.mean(caught) > 0.95
