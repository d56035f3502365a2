"""Which images show the same physical part, found from their pixels.

Local features (SIFT on the contrast-normalised image, so that light does not matter) vote for the images that look
alike, which keeps the cost of an image nearly the same however many there are. A candidate pair is linked when the
features agree on one similarity transform, mirrored or not, and the fine texture then agrees nearly everywhere in the
overlap: parts of one design share edges and holes, not the grain between them. Where a pattern repeats, such as rows of
holes, they have to agree better than each does with itself elsewhere, or in many features. Linked images form a group.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from scipy import fft
from scipy.cluster.hierarchy import DisjointSet

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.neighbours import Index, Votes, mirrored, roots

# Description
SIDE = 256  # px of the longer side that images are reduced to; smaller ones are not enlarged
LIGHT = 12.0  # px; what is coarser than this counts as light
FEATURES = 400  # per image

KEPT = 10_000  # descriptions in memory, of 0.1 MB each
CANDIDATES = 6  # images that an image is compared with in a round

# Verification
NEARER = 0.9  # a match must be this much nearer than the second best
MIN_INLIERS = 10  # matches that agree on one transform within 3 px
MANY_INLIERS = 50  # those of a pattern that repeats are seldom clear
MIN_OVERLAP = 0.1  # of the smaller image
BLOCK = 32  # px; texture is correlated in windows of this side
MIN_CONTRAST = 8.0  # of a window, in units of `Description.detail`; below is noise or emptiness
MIN_WINDOWS = 8
MIN_CORRELATION = 0.4  # of the windows' median; parts of one design, machined alike, come close to it
ELSEWHERE = 8  # px; what is like itself when moved by more than this repeats itself


class Description(NamedTuple):
    """What grouping needs to know of an image; plain arrays, so that a caller may keep them by content hash."""

    points: np.ndarray  # (n, 2) float32 x, y in px of `detail`
    descriptors: np.ndarray  # (n, 128) uint8 SIFT
    detail: np.ndarray  # (h, w) uint8 grey without its light: 128 is the local mean, 42 one local standard deviation


def describe(image: np.ndarray) -> Description:
    """What of an image ((H, W, 3) uint8 RGB) survives another exposure, light, flip, crop, shift or turn."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    fine = grey - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), LIGHT)
    deviation = np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), LIGHT))
    fine /= deviation + 1  # grey level, so that what is flat stays flat
    detail = np.clip(128 + 42 * fine, 0, 255).astype(np.uint8)
    sift = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=0.02, edgeThreshold=15)
    keypoints, descriptors = sift.detectAndCompute(detail, None)
    if descriptors is None:
        return Description(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), detail)
    return Description(np.asarray(cv2.KeyPoint.convert(keypoints)), descriptors.astype(np.uint8), detail)


@dataclass
class Gallery:
    """Images that have been compared with each other, by content hash, and pairs of one part: enough of them to connect
    all that are found to show it. An image that joins is compared with the others, and they not with each other again.
    """

    index: Index = field(default_factory=lambda: Index.of({}))
    links: set[tuple[str, str]] = field(default_factory=set)

    def update(self, keys: Iterable[str], describe: Callable[[str], Description]) -> None:
        """Make the images of these keys (content hashes) its images; ``describe`` is asked for those that it needs, by
        several threads at once, and again for one that was needed long ago.

        Those that are new are compared with the likeliest others, as are those in a group with one that is gone. The
        outcome does not depend on the order of the keys; where images are barely alike it may on which were there before.
        """
        describe = functools.lru_cache(KEPT)(describe)
        wanted, known = set(keys), set(self.index.numbers)
        before = self._groups()
        bereaved = {key for gone in known - wanted for key in before.subset(gone)} & wanted
        self.links = {link for link in self.links if wanted.issuperset(link)}
        self.index.remove(known - wanted)
        joining = sorted(wanted - known)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading and SIFT leave Python's lock
            found = pool.map(lambda key: describe(key).descriptors, joining)
            new = dict(zip(joining, found, strict=True))
        if self.index.fits(len(wanted)):
            self.index.add(new)
        else:
            self.index = Index.of(
                {key: new[key] if key in new else describe(key).descriptors for key in sorted(wanted)}
            )
        self._compare(new | {key: describe(key).descriptors for key in bereaved}, describe)

    def _compare(self, asking: Mapping[str, np.ndarray], describe: Callable[[str], Description]) -> None:
        """Compare each of these with the likeliest images outside its group, round by round as long as the group grows."""
        votes, tried, groups = self.index.votes(asking), set(), self._groups()
        names = {number: key for key, number in self.index.numbers.items()}
        in_play = asked = {self.index.numbers[key] for key in asking}

        def settled(one: int, other: int) -> bool:
            return _pair(one, other) in tried or groups.connected(names[one], names[other])

        while in_play:
            grown = set()
            for one, other in _candidates(votes, in_play, settled):
                tried.add((one, other))
                if not groups.connected(names[one], names[other]) and same_part(
                    describe(names[one]), describe(names[other]), votes.flipped(one, other)
                ):
                    groups.merge(names[one], names[other])
                    self.links.add((names[one], names[other]))
                    grown.add(names[one])
            in_play = asked & {self.index.numbers[member] for one in grown for member in groups.subset(one)}

    def _groups(self) -> DisjointSet:
        groups = DisjointSet(self.index.numbers)
        for one, other in self.links:
            groups.merge(one, other)
        return groups

    def labels(self, keys: Sequence[str], part_ids: Sequence[str | None] | None = None) -> list[str]:
        """Of each of these images, the same for all of one part: the first 12 characters of the smallest key among them.

        `part_ids` (see `part_ids_of`) unite further images: those that share an id. A label changes when an image with a
        smaller key joins; what has to last, such as a split, therefore goes by the images and not by the label.
        """
        groups = self._groups()
        first: dict[str, str] = {}
        for key, part in zip(keys, part_ids or [], strict=part_ids is not None):
            if part is not None:
                groups.merge(key, first.setdefault(part, key))
        label = {name: min(subset)[:12] for subset in groups.subsets() for name in subset}
        return [label[key] for key in keys]


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _candidates(votes: Votes, images: Iterable[int], settled: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Pairs of each of these images with those most voted for that are not settled, the best pair first."""
    pairs: dict[tuple[int, int], float] = {}
    for one in images:
        others, counts = votes.of(one)
        ranked = (k for k in np.lexsort((others, -counts)) if not settled(one, int(others[k])))
        pairs |= {_pair(one, int(others[k])): float(counts[k]) for k in islice(ranked, CANDIDATES)}
    return sorted(pairs, key=lambda pair: (-pairs[pair], pair))


def part_ids_of(paths: Iterable[str], part_regex: str) -> list[str | None]:
    """What the only capture group of `part_regex`, or the one named `part`, finds in each path; None where it fails.

    Raises PipelineError when it is no regular expression, or has no such group.
    """
    try:
        pattern = re.compile(part_regex)
    except re.error as error:
        raise PipelineError(f"The part regex {part_regex!r} is no regular expression ({error}); mend it.") from None
    if "part" not in pattern.groupindex and pattern.groups != 1:
        raise PipelineError(f"The part regex {part_regex!r} needs one capture group, or one named part: (?P<part>...).")
    group = "part" if "part" in pattern.groupindex else 1
    return [match.group(group) if (match := pattern.search(path)) else None for path in paths]


def same_part(one: Description, other: Description, flipped: bool) -> bool:
    """Whether one image (mirrored first, if ``flipped``), turned, scaled and shifted, is the other, down to the grain."""
    if flipped:
        right = np.array([one.detail.shape[1] - 1, 0], np.float32)
        one = Description(np.abs(right - one.points), mirrored(one.descriptors), one.detail[:, ::-1])
    ours, theirs = _matches(one.descriptors, other.descriptors)
    if len(ours) < MIN_INLIERS:
        return False
    source, target = one.points[ours], other.points[theirs]
    similarity, agreeing = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=3)
    inliers = np.flatnonzero(agreeing)
    if similarity is None or len(inliers) < MIN_INLIERS:
        return False
    # An affine map on top, fitted to these matches, follows a curved or tilted surface more closely
    places = np.column_stack([source[inliers], np.ones(len(inliers))])
    transform = np.linalg.lstsq(places, target[inliers], rcond=None)[0].T
    overlap, correlations = _agreement(one.detail, other.detail, transform)
    if overlap < MIN_OVERLAP or len(correlations) < MIN_WINDOWS:
        return False
    correlation = float(np.median(correlations))
    if correlation < MIN_CORRELATION:
        return False
    if len(inliers) >= MANY_INLIERS:
        return True
    return correlation >= (1 + max(_repetition(one.detail), _repetition(other.detail))) / 2


# --- verification ---------------------------------------------------------------------------------


def _matches(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of descriptors ((n, 128) and (m, 128) uint8) that are each other's nearest, and clearly so."""
    if min(len(ours), len(theirs)) < MIN_INLIERS:
        return np.zeros(0, int), np.zeros(0, int)
    distances = _distances(roots(ours), roots(theirs))
    nearest = distances.argmin(axis=1)
    place = np.arange(len(ours)), nearest
    best = distances[place]
    distances[place] = np.inf
    clear = np.flatnonzero(best < NEARER**2 * distances.min(axis=1))
    distances[place] = best
    chosen = clear[distances[:, nearest[clear]].argmin(axis=0) == clear]
    return chosen, nearest[chosen]


def _agreement(one: np.ndarray, other: np.ndarray, transform: np.ndarray) -> tuple[float, np.ndarray]:
    """The overlap when `transform` (2, 3) lays one `detail` on another, as a share of the smaller image, and (k,) the
    correlation of the two in those windows of it where there is something to see."""
    size = other.shape[::-1]
    inside = cv2.warpAffine(np.ones(one.shape, np.float32), transform, size, flags=cv2.INTER_NEAREST)
    overlap = float(inside.sum() / max(1, min(other.size, one.size * abs(np.linalg.det(transform[:, :2])))))
    first = cv2.warpAffine(_smooth(one), transform, size)
    second = _smooth(other)

    def windows(values: np.ndarray) -> np.ndarray:
        sums = cv2.blur(values * inside, (BLOCK, BLOCK), borderType=cv2.BORDER_CONSTANT)
        return sums[BLOCK // 2 :: BLOCK // 2, BLOCK // 2 :: BLOCK // 2]

    share = windows(np.ones_like(second))
    area = np.maximum(share, 1e-6)
    mean_first, mean_second = windows(first) / area, windows(second) / area
    covariance = windows(first * second) / area - mean_first * mean_second
    variance_first = windows(first * first) / area - mean_first**2
    variance_second = windows(second * second) / area - mean_second**2
    telling = (share > 0.5) & (np.minimum(variance_first, variance_second) > MIN_CONTRAST**2)
    return overlap, (covariance / np.sqrt(np.maximum(variance_first * variance_second, 1e-6)))[telling]


def _repetition(detail: np.ndarray) -> float:
    """The highest correlation of a `detail` with itself moved by more than `ELSEWHERE` and by half its size at most; not
    negative, and about 1 where a pattern repeats."""
    height, width = detail.shape
    down, right = np.arange(height // 2 + 1)[:, None], np.arange(-(width // 2), width // 2 + 1)
    spectrum = fft.rfft2(_smooth(detail), (2 * height, 2 * width))
    covariance = fft.irfft2(np.abs(spectrum) ** 2)[down, right] / ((height - down) * (width - np.abs(right)))
    return float(covariance[np.hypot(down, right) > ELSEWHERE].max(initial=0) / covariance[0, width // 2])


def _smooth(detail: np.ndarray) -> np.ndarray:
    """(h, w) float32 about 0, without the sensor's noise, and tolerant of a pixel's misalignment."""
    return cv2.GaussianBlur(detail.astype(np.float32) - 128, (0, 0), 1)


def _distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(n, m) float32 squared Euclidean."""
    return (ours * ours).sum(axis=1)[:, None] + (theirs * theirs).sum(axis=1) - 2 * ours @ theirs.T
