import numpy as np
import pytest
import torch
from torch import nn

from defect_pipeline.evaluation.copying import (
    BITS,
    Fingerprints,
    calibrate,
    fingerprints,
    nearest,
    perceptual_hash,
    symmetries,
)
from defect_pipeline.evaluation.features import Extractor


class _Corners(nn.Module):
    """Sixteen coarse pixels as features: turns and mirrors are told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        grey = pixels.float().mean(dim=1, keepdim=True)
        return nn.functional.adaptive_avg_pool2d(grey, 4).flatten(1) - 127


EXTRACTOR = Extractor("corners", 16, _Corners())


def pictures(n: int, seed: int) -> list[np.ndarray]:
    """Smooth random colour fields."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (n, 3, 6, 6)))
    return list(
        nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic")
        .clamp(0, 255)
        .byte()
        .permute(0, 2, 3, 1)
        .numpy()
    )


def test_there_are_eight_symmetries_and_the_first_is_the_image():
    image = pictures(1, 0)[0]
    sides = symmetries(image)
    assert np.array_equal(sides[0], image) and len({side.tobytes() for side in sides}) == 8


def test_the_hash_forgives_light_and_noise_but_not_another_picture():
    one, other = pictures(2, 1)
    rng = np.random.default_rng(0)
    dimmed = np.clip(0.8 * one + 10 + rng.normal(0, 3, one.shape), 0, 255).astype(np.uint8)
    near, far = ((perceptual_hash(one) != perceptual_hash(x)).sum() for x in (dimmed, other))
    assert near <= 6 and far > 16 and perceptual_hash(one).shape == (BITS,)


@pytest.mark.parametrize("turn", range(8))
def test_a_copy_is_found_whichever_way_it_is_turned(turn: int):
    real = pictures(12, 2)
    references = fingerprints(real, EXTRACTOR, turned=True)
    thresholds, among = calibrate(references, [str(i) for i in range(12)])
    found = nearest(fingerprints([symmetries(real[5])[turn], *pictures(3, 3)], EXTRACTOR), references)
    assert found.feature_index[0] == 5 and found.hash_index[0] == 5
    assert thresholds.copies(found).tolist() == [True, False, False, False]
    assert np.median(among.feature_distance) > thresholds.feature > found.feature_distance[0]


def test_images_of_one_part_do_not_make_the_threshold():
    real = pictures(8, 4)
    doubled = [image for image in real for _ in range(2)]  # each part twice, as like as can be
    references = fingerprints(doubled, EXTRACTOR, turned=True)
    by_part, _ = calibrate(references, [str(i // 2) for i in range(16)])
    by_image, _ = calibrate(references, [str(i) for i in range(16)])
    assert by_part.feature > 0.01 > by_image.feature


def test_with_a_single_part_nothing_is_called_a_copy():
    references = fingerprints(pictures(3, 5), EXTRACTOR, turned=True)
    thresholds, _ = calibrate(references, ["a", "a", "a"])
    assert np.isnan(thresholds.feature)
    assert not thresholds.copies(nearest(references, references)).any()


def test_distances_are_those_of_the_nearest_view():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 8, 5))
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    prints = Fingerprints(features, rng.random((2, 8, BITS)) < 0.5)
    found = nearest(prints, prints, np.array([[False, True], [True, False]]))
    expected = min(1 - float(view @ features[0, 0]) for view in features[1])
    bits = min(int((view != prints.hashes[0, 0]).sum()) for view in prints.hashes[1])
    assert found.feature_distance[0] == pytest.approx(expected) and found.hash_distance[0] == bits
    assert found.feature_index.tolist() == [1, 0]
