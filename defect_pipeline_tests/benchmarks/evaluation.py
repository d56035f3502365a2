"""Evaluation: FID and KID against other libraries, features in hand; and all figures of a synthetic set, as a run takes them."""

from collections.abc import Callable

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.evaluation.copying import calibrate, fingerprints, nearest
from defect_pipeline.evaluation.distances import compare, frechet_distance, kernel_distance
from defect_pipeline.evaluation.faithfulness import twin_figures, twin_table
from defect_pipeline.evaluation.features import load_extractor
from defect_pipeline_tests.benchmarks.data import as_bytes
from defect_pipeline_tests.benchmarks.timing import Row, in_turn, seconds

DIMENSION = 2048


def features(n: int, seed: int) -> np.ndarray:
    """(n, DIMENSION) float32, correlated as a network's are."""
    mixing = np.random.default_rng(0).normal(size=(256, DIMENSION)) / 16
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 256)) @ mixing + 0.1 * rng.normal(size=(n, DIMENSION))).astype(np.float32)


def distances(n: int, repeats: int, against: str = "torch-fidelity") -> Row:
    """FID and KID of n against n features, equal to 1e-3 of each other."""
    a, b = features(n, 1), features(n, 2) + 0.05
    found: dict[str, tuple[float, float]] = {}

    def ours() -> None:
        found["ours"] = frechet_distance(a, b), kernel_distance(a, b)

    def theirs() -> None:
        found["theirs"] = OTHERS[against](a, b)

    times = in_turn(ours, theirs, repeats)
    np.testing.assert_allclose(found["ours"], found["theirs"], rtol=1e-3)
    return Row("FID and KID, features in hand", n, *times, f"{against}, KID of one subset of all")


def _torch_fidelity(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    tensors = [torch.from_numpy(x).double() for x in (a, b)]
    fid = fid_statistics_to_metric(*map(fid_features_to_statistics, tensors), verbose=False)
    kid = kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=len(a), verbose=False)
    return fid["frechet_inception_distance"], kid["kernel_inception_distance_mean"]


def _clean_fid(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    from cleanfid import fid

    moments = [moment for x in (a, b) for moment in (x.mean(axis=0), np.cov(x, rowvar=False))]
    return fid.frechet_distance(*moments), fid.kernel_distance(a, b, num_subsets=1, max_subset_size=len(a))


OTHERS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, float]]] = {
    "torch-fidelity": _torch_fidelity,
    "clean-fid": _clean_fid,
}


def whole_evaluation(n: int, repeats: int, *, real: int = 60, size: int = 128) -> Row:
    """Features, KID with interval and floors, FID, copies under 8 symmetries and faithfulness of n synthetic images."""
    drawn = draw_surfaces(n + real, size, torch.Generator().manual_seed(0), marked=1.0)
    images = list(as_bytes(drawn.images))
    masks = list(drawn.masks.numpy())
    synthetic, references = images[:n], images[n:]

    def ours() -> None:
        extractor = load_extractor("efficientnet-lite0")
        found, held_out = extractor.features(synthetic), extractor.features(references)
        for _ in range(3):  # held-out, train, and all before the filter
            compare(held_out, found, extractor=extractor.name, seed=0)
        train = fingerprints(references, extractor, turned=True)
        thresholds, _ = calibrate(train, [str(k) for k in range(real)])
        thresholds.copies(nearest(fingerprints(synthetic, extractor), train))
        twin_figures(twin_table(synthetic, [np.roll(image, 1, 0) for image in synthetic], masks[:n]))

    times = [seconds(ours) for _ in range(repeats)]
    name = f"all figures of a set, {real} training windows, {size} px"
    return Row(name, n, times, [], "at most 180 s on two cores", "images")
