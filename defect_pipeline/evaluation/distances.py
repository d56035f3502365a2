"""KID and FID between two sets of image features, with what it takes to read them: an interval and a floor.

KID leads, for it is unbiased: on average it is zero between sets of one distribution, however few images there are. FID
falls as images are added, so it only compares at one number of images, and only with the floor at that number.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from defect_pipeline.errors import PipelineError


@dataclass(frozen=True)
class Comparison:
    """Synthetic against real images. A figure holds for its extractor and its numbers of images only."""

    kid: float
    kid_low: float  # 95 % confidence interval
    kid_high: float
    fid: float  # of all images
    fid_at_floor: float  # of n_floor images a side, as floor_fid is: the one to hold against it
    floor_kid: float  # a KID that two real sets of n_floor images exceed in 1 of 20 halvings
    floor_fid: float  # mean FID of two real sets of n_floor images
    n_real: int
    n_synthetic: int
    n_floor: int  # images a side behind the floors; they are NaN below 2
    extractor: str


def compare(
    real: np.ndarray,
    synthetic: np.ndarray,
    *,
    extractor: str,
    seed: int,
    resamples: int = 1000,
    halvings: int = 50,
) -> Comparison:
    """Compare features (n, D) of real and synthetic images, both by ``extractor`` (`Extractor.name`).

    ``resamples`` are for the interval, ``halvings`` random draws for the floors. Raises `PipelineError` below 2 images
    a side.
    """
    kid, low, high = kernel_distance_ci(real, synthetic, resamples=resamples, seed=seed)
    n = min(len(real) // 2, len(synthetic))
    if n >= 2:
        floor_kid, floor_fid = real_floor(real, n, halvings, seed)
        fid_at_floor = _fid_of_subsets(real, synthetic, n, halvings, seed)
    else:
        floor_kid = floor_fid = fid_at_floor = float("nan")
    return Comparison(
        kid=kid,
        kid_low=low,
        kid_high=high,
        fid=frechet_distance(real, synthetic),
        fid_at_floor=fid_at_floor,
        floor_kid=floor_kid,
        floor_fid=floor_fid,
        n_real=len(real),
        n_synthetic=len(synthetic),
        n_floor=n,
        extractor=extractor,
    )


# --- FID -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of features: all that FID needs of a set, and what shards of it merge by, exactly."""

    n: int
    mean: np.ndarray  # (D,) float64
    root: np.ndarray  # (r, D) float64 with rootᵀ root the sum of outer products of centred features; r at most D

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Of features (n, D)."""
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        return cls(len(features), mean, _compact(features - mean))

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets together, as if their features had been one array."""
        n, apart = self.n + other.n, other.mean - self.mean
        between = np.sqrt(self.n * other.n / n) * apart  # what setting the means apart adds to the scatter
        root = _compact(np.vstack([self.root, other.root, between[None]]))
        return Moments(n, self.mean + apart * (other.n / n), root)

    def save(self, file: Path) -> None:
        np.savez(file, n=self.n, mean=self.mean, root=self.root)

    @classmethod
    def load(cls, file: Path) -> "Moments":
        with np.load(file) as kept:
            return cls(int(kept["n"]), kept["mean"], kept["root"])


def frechet_distance(a: np.ndarray | Moments, b: np.ndarray | Moments) -> float:
    """FID of features (n, D) and (m, D), or of their moments; exact.

    Tr √(S_a S_b) is the nuclear norm of A Bᵀ for centred A/√(n−1), B/√(m−1), so no D x D root is taken. Raises
    `PipelineError` below 2 images a side.
    """
    _check_numbers(*(side.n if isinstance(side, Moments) else len(side) for side in (a, b)))
    a, b = (side if isinstance(side, Moments) else Moments.of(side) for side in (a, b))
    difference = a.mean - b.mean
    left, right = (side.root / np.sqrt(side.n - 1) for side in (a, b))
    cross = np.linalg.norm(left @ right.T, "nuc")
    return float(difference @ difference + np.sum(left**2) + np.sum(right**2) - 2 * cross)


def _compact(rows: np.ndarray) -> np.ndarray:
    """At most D rows (r, D) with the same rowsᵀ rows."""
    return np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _fid_of_subsets(a: np.ndarray, b: np.ndarray, n: int, draws: int, seed: int) -> float:
    """Mean FID of random subsets of n images a side."""
    rng = np.random.default_rng(seed)
    return float(np.mean([frechet_distance(a[_draw(rng, len(a), n)], b[_draw(rng, len(b), n)]) for _ in range(draws)]))


def _draw(rng: np.random.Generator, total: int, n: int) -> np.ndarray:
    return rng.choice(total, n, replace=False)


# --- KID -----------------------------------------------------------------------------------------------------------


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID of features (n, D) and (m, D): the unbiased squared MMD under the kernel (x·y/D + 1)³.

    It may be negative. Raises `PipelineError` below 2 images a side.
    """
    a, b = _checked(a, b)
    return float(_mmd2(_kernel(a, a), _kernel(a, b), _kernel(b, b), _uniform(len(a)), _uniform(len(b)))[0])


def kernel_distance_ci(
    a: np.ndarray, b: np.ndarray, *, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
    """KID with the low and high end of its bootstrap confidence interval.

    A resample with replacement holds some images twice, and a pair of an image with itself is as similar as can be:
    left in, such pairs would push the whole interval up. Instead both sets are weighted (the Bayesian bootstrap:
    weights from a flat Dirichlet distribution), an image is never paired with itself, and the sum over the pairs is
    divided by the weight of these pairs, 1 − Σw². Weights of 1/n give back the unbiased estimate, so the interval
    stands around it; and no weight is zero, so that even 2 images a side have one. The interval is that of percentiles.

    It knows only the images at hand: it is too short for a handful, and on the wide side where both sets come from
    one distribution. Raises `PipelineError` below 2 images a side.
    """
    a, b = _checked(a, b)
    kaa, kab, kbb = _kernel(a, a), _kernel(a, b), _kernel(b, b)
    rng = np.random.default_rng(seed)
    weights = [rng.dirichlet(np.ones(len(x)), size=resamples) for x in (a, b)]
    low, high = np.quantile(_mmd2(kaa, kab, kbb, *weights), [(1 - level) / 2, (1 + level) / 2])
    return float(_mmd2(kaa, kab, kbb, _uniform(len(a)), _uniform(len(b)))[0]), float(low), float(high)


def real_floor(real: np.ndarray, n: int, resamples: int, seed: int) -> tuple[float, float]:
    """KID and FID between ``resamples`` random pairs of disjoint sets of n real images (N, D), N ≥ 2n.

    FID is the mean. KID is the 95th percentile: over halvings of one set it is zero on average, whatever the images.
    Raises `PipelineError` below 2 images a set or where the real ones do not suffice.
    """
    if n < 2 or 2 * n > len(real):
        raise PipelineError(
            f"a real-vs-real floor at n = {n} needs n ≥ 2 and {2 * n} real images, there are {len(real)}"
        )
    rng = np.random.default_rng(seed)
    halves = [_draw(rng, len(real), 2 * n).reshape(2, n) for _ in range(resamples)]
    weights = np.zeros((2, resamples, len(real)))
    for i, pair in enumerate(halves):
        for side, chosen in enumerate(pair):
            weights[side, i, chosen] = 1 / n
    kernel = _kernel(real.astype(np.float64), real.astype(np.float64))
    kid = np.quantile(_mmd2(kernel, kernel, kernel, *weights), 0.95)
    return float(kid), float(np.mean([frechet_distance(real[a], real[b]) for a, b in halves]))


def _mmd2(kaa: np.ndarray, kab: np.ndarray, kbb: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared MMD (R,) over pairs of distinct images of two sets weighted R ways, a (R, n) and b (R, m).

    The rows of weights sum to 1; uniform ones give the unbiased estimate.
    """
    return _within(kaa, a) + _within(kbb, b) - 2 * np.sum((a @ kab) * b, axis=1)


def _within(kernel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    itself = weights**2 @ np.diagonal(kernel)
    return (np.sum((weights @ kernel) * weights, axis=1) - itself) / (1 - np.sum(weights**2, axis=1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _uniform(n: int) -> np.ndarray:
    return np.full((1, n), 1 / n)


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, at least 2 rows each."""
    _check_numbers(len(a), len(b))
    return a.astype(np.float64), b.astype(np.float64)


def _check_numbers(n: int, m: int) -> None:
    if min(n, m) < 2:
        raise PipelineError(f"KID and FID need 2 images a side, there are {n} and {m}: add images of this class")
