import functools
import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import (
    Moments,
    compare,
    frechet_distance,
    kernel_distance,
    kernel_distance_ci,
    real_floor,
)


def sample(n: int, seed: int, shift: float = 0.0, d: int = 24) -> np.ndarray:
    """Correlated features, as a network's are."""
    rng = np.random.default_rng((seed, 1))
    mixing = np.random.default_rng(0).normal(size=(d, d)) / np.sqrt(d)
    return (rng.normal(size=(n, d)) @ mixing + shift).astype(np.float32)


def torch_fidelity_fid(a: np.ndarray, b: np.ndarray) -> float:
    statistics = [fid_features_to_statistics(torch.from_numpy(x).double()) for x in (a, b)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize(("n", "m"), [(200, 150), (40, 30), (10, 200), (2, 3)])
def test_fid_is_that_of_torch_fidelity(n, m):
    a, b = sample(n, 1), sample(m, 2, shift=0.5)
    assert frechet_distance(a, b) == pytest.approx(torch_fidelity_fid(a, b), rel=1e-3)


@pytest.mark.parametrize("n", [2, 30, 300])
def test_kid_is_that_of_torch_fidelity(n):
    a, b = sample(n, 1), sample(n, 2, shift=0.5)
    oracle = kid_features_to_metric(
        torch.from_numpy(a).double(), torch.from_numpy(b).double(), kid_subsets=1, kid_subset_size=n, verbose=False
    )
    assert kernel_distance(a, b) == pytest.approx(oracle["kernel_inception_distance_mean"], rel=1e-6)


def test_kid_of_sets_of_different_sizes_by_hand():
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0], [0.0]])
    # (xy + 1)^3 of distinct images: within a 1; within b (27 + 1 + 1) / 3; across (1 + 1 + 1 + 8 + 27 + 1) / 6
    assert kernel_distance(a, b) == pytest.approx(1 + 29 / 3 - 2 * 39 / 6)


def test_distances_are_symmetric_and_fid_of_a_set_to_itself_is_zero():
    a, b = sample(20, 1), sample(33, 2, shift=0.3)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kid_is_unbiased_and_fid_is_not():
    few = [(sample(6, 2 * i), sample(6, 2 * i + 1)) for i in range(300)]
    kids, fids = ([distance(a, b) for a, b in few] for distance in (kernel_distance, frechet_distance))
    assert abs(np.mean(kids)) < 3 * np.std(kids) / math.sqrt(len(kids))
    assert np.mean(fids) > 1


def test_interval_holds_the_true_kid_as_often_as_it_says():
    truth = kernel_distance(sample(4000, 900), sample(4000, 901, shift=0.3))
    hits, misses_low = 0, 0
    for i in range(100):
        kid, low, high = kernel_distance_ci(sample(40, 2 * i), sample(40, 2 * i + 1, shift=0.3), resamples=300, seed=i)
        assert low < kid < high
        hits += low <= truth <= high
        misses_low += truth < low  # where copies of an image were paired with itself, the interval would stand too high
    assert hits >= 85 and misses_low <= 12


def test_interval_between_sets_of_one_distribution_holds_zero():
    hits = 0
    for i in range(50):
        _, low, high = kernel_distance_ci(sample(30, 2 * i), sample(30, 2 * i + 1), resamples=300, seed=i)
        hits += low <= 0 <= high
    assert hits >= 45


def test_interval_is_reproducible_and_widens_with_the_level():
    a, b = sample(20, 1), sample(25, 2, shift=0.5)
    assert kernel_distance_ci(a, b, resamples=100, seed=3) == kernel_distance_ci(a, b, resamples=100, seed=3)
    _, low, high = kernel_distance_ci(a, b, resamples=500, seed=3, level=0.5)
    _, lower, higher = kernel_distance_ci(a, b, resamples=500, seed=3, level=0.99)
    assert lower < low < high < higher


def test_floor_falls_with_n_and_a_shifted_set_lies_above_it():
    real, shifted = sample(120, 1), sample(60, 2, shift=0.6)
    (kid_few, fid_few), (kid_many, fid_many) = (real_floor(real, n, 40, 0) for n in (10, 60))
    assert 0 < kid_many < kid_few and fid_many < fid_few
    assert kernel_distance(real[:60], shifted) > kid_many and frechet_distance(real[:60], shifted) > fid_many


def test_floor_needs_disjoint_halves():
    with pytest.raises(PipelineError, match="20 real images, there are 19"):
        real_floor(sample(19, 1), 10, 5, 0)


def test_compare_tells_one_distribution_from_another():
    real = sample(80, 1)
    same, other = (compare(real, sample(40, 2, shift), extractor="x", seed=0, resamples=200) for shift in (0.0, 0.6))
    assert (same.n_real, same.n_synthetic, same.n_floor, same.extractor) == (80, 40, 40, "x")
    assert same.kid_low < 0 < same.kid_high < other.kid_low
    assert same.fid_at_floor == pytest.approx(same.floor_fid, rel=0.15)
    assert other.fid_at_floor > 1.5 * other.floor_fid


def test_two_images_a_side_are_enough_and_one_is_not():
    few = compare(sample(2, 1), sample(2, 2), extractor="x", seed=0, resamples=50)
    assert all(math.isfinite(v) for v in (few.kid, few.kid_low, few.kid_high, few.fid))
    assert few.n_floor == 1 and math.isnan(few.floor_kid) and math.isnan(few.floor_fid)
    for distance in (kernel_distance, frechet_distance):
        with pytest.raises(PipelineError, match="2 images a side, there are 1 and 5"):
            distance(sample(1, 1), sample(5, 2))


@pytest.mark.parametrize("sizes", [(3, 2), (5, 40, 7), (60, 50)])  # fewer, and more, images than the 24 features
def test_moments_of_shards_merge_to_those_of_the_whole(sizes, tmp_path):
    shards, real = [sample(n, k, shift=0.2 * k) for k, n in enumerate(sizes)], sample(70, 9)
    merged = functools.reduce(Moments.merged, map(Moments.of, shards))
    whole = np.concatenate(shards)
    assert merged.n == len(whole) and len(merged.root) <= whole.shape[1]
    assert np.allclose(merged.mean, whole.mean(axis=0))
    assert np.allclose(merged.root.T @ merged.root, np.cov(whole.T.astype(np.float64)) * (len(whole) - 1))
    merged.save(tmp_path / "moments.npz")
    for moments in (merged, Moments.load(tmp_path / "moments.npz")):
        assert frechet_distance(moments, real) == pytest.approx(frechet_distance(whole, real), rel=1e-9)
