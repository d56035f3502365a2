"""Which images show the same physical part, found from their pixels.

Local features (SIFT on the contrast-normalised image, so that light does not matter) vote for the images that look
alike, which keeps the cost proportional to the number of images. A candidate pair is linked when the features agree on
one similarity transform, mirrored or not, and the fine texture then agrees nearly everywhere in the overlap: parts of
one design share edges and holes, not the grain between them. Linked images form a group.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from defect_pipeline.errors import PipelineError

# Description
SIDE = 256  # px of the longer side that images are reduced to; smaller ones are not enlarged
LIGHT = 12.0  # px; what is coarser than this counts as light
FEATURES = 400  # per image

# Vote
PROJECTED = 32  # principal components of a descriptor that take part
CELL = 256  # descriptors that a descriptor is compared with, on average
RIVALS = 10  # nearest descriptors that share a vote; a pattern that more images than that have is worth nothing
CANDIDATES = 6  # images verified per image and round

# Verification
NEARER = 0.9  # a match must be this much nearer than the second best
MIN_INLIERS = 10  # matches that agree on one transform within 3 px
MIN_OVERLAP = 0.1  # of the smaller image
BLOCK = 32  # px; texture is correlated in windows of this side
MIN_CONTRAST = 8.0  # of a window, in units of `Description.detail`; below is noise or emptiness
MIN_WINDOWS = 8
MIN_CORRELATION = 0.4  # of the windows' median; parts of one design, machined alike, come close to it


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


def find_groups(
    descriptions: Iterable[Description], keys: Sequence[str], part_ids: Sequence[str | None] | None = None
) -> list[str]:
    """A label per image, the same for all images of one part: the first 12 characters of the smallest key among them.

    `keys` are content hashes: images with one key are one image, and the outcome does not depend on the order of the
    images. `part_ids` (see `part_ids_of`) unite further images: those that share an id. A label changes when an image
    with a smaller key joins; what has to last, such as a split, therefore goes by the images and not by the label.
    """
    unique = dict(sorted(zip(keys, descriptions, strict=True), key=lambda item: item[0]))
    names = list(unique)
    groups = DisjointSet(names)
    for one, other in _links(list(unique.values())):
        groups.merge(names[one], names[other])
    first: dict[str, str] = {}
    for key, part in zip(keys, part_ids or [], strict=part_ids is not None):
        if part is not None:
            groups.merge(key, first.setdefault(part, key))
    label = {name: min(subset)[:12] for subset in groups.subsets() for name in subset}
    return [label[key] for key in keys]


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


def same_part(one: Description, other: Description, mirrored: bool) -> bool:
    """Whether one image (flipped first, if `mirrored`), turned, scaled and shifted, is the other, down to the grain."""
    if mirrored:
        right = np.array([one.detail.shape[1] - 1, 0], np.float32)
        one = Description(np.abs(right - one.points), _mirrored(one.descriptors), one.detail[:, ::-1])
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
    return bool(np.median(correlations) >= MIN_CORRELATION)


# --- candidates -----------------------------------------------------------------------------------


def _links(images: Sequence[Description]) -> list[tuple[int, int]]:
    """Pairs of images (as indices) of one part: enough of them to connect all that are found to show it.

    In each round an image is compared with the likeliest ones outside its group, as long as the group grows.
    """
    straight, mirrored = _votes(images)
    votes = np.maximum(straight, mirrored)
    groups, links = DisjointSet(range(len(images))), []
    in_play = set(range(len(images)))
    while in_play:
        grown = set()
        for one, other in _candidates(votes, in_play):
            votes[one, other] = votes[other, one] = 0  # tried
            flipped = bool(mirrored[one, other] > straight[one, other])
            if not groups.connected(one, other) and same_part(images[one], images[other], flipped):
                links.append((one, other))
                groups.merge(one, other)
                grown.add(one)
        in_play = {member for one in grown for member in groups.subset(one)}
        for one in in_play:
            votes[one, list(groups.subset(one))] = 0
    return links


def _candidates(votes: np.ndarray, images: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs (smaller index first) of each of these images with those most voted for, the best pair first."""
    pairs = {
        (min(one, int(other)), max(one, int(other)))
        for one in images
        for other in np.argsort(-votes[one], kind="stable")[:CANDIDATES]
        if votes[one, other] > 0
    }
    return sorted(pairs, key=lambda pair: (-votes[pair], pair))


def _votes(images: Sequence[Description]) -> np.ndarray:
    """(2, n, n) float32, symmetric: how much the descriptors of two images favour each other, as they are or mirrored.

    Each descriptor votes for the nearest ones of other images, by how much nearer they are than the farthest of RIVALS,
    so a pattern that everybody has gets no weight. It sees only the descriptors in its cell of a coarse partition.
    """
    owner = np.repeat(np.arange(len(images)), [len(image.descriptors) for image in images])
    votes = np.zeros((2, len(images), len(images)), np.float32)
    if len(owner) == 0:
        return votes
    rng = np.random.default_rng(0)
    axes = _principal_axes(np.concatenate([image.descriptors for image in images]), rng)
    asked = np.concatenate([_root(image.descriptors) @ axes for image in images])
    mirrored = np.concatenate([_root(_mirrored(image.descriptors)) @ axes for image in images])
    centres = asked[rng.choice(len(asked), max(1, len(asked) // CELL), replace=False)]
    cells = _members(asked, centres)
    for ballot, asking in zip(votes, (asked, mirrored), strict=True):
        for voters, candidates in zip(_members(asking, centres), cells, strict=True):
            distances = _distances(asking[voters], asked[candidates])
            distances[owner[voters][:, None] == owner[candidates]] = np.inf
            last = min(RIVALS, len(candidates) - 1)
            nearest = np.argpartition(distances, last, axis=1)[:, : last + 1]
            distances = np.take_along_axis(distances, nearest, axis=1)
            farthest = np.where(np.isfinite(distances), distances, 0).max(axis=1, keepdims=True)
            weights = np.maximum(farthest - distances, 0)
            np.add.at(ballot, (owner[voters][:, None], owner[candidates][nearest]), weights)
    return votes + votes.swapaxes(1, 2)


def _principal_axes(descriptors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(128, PROJECTED) float32, from a sample of the descriptors and its mirror image, so that both fare alike."""
    sample = descriptors[rng.permutation(len(descriptors))[:20_000]]
    _, axes = np.linalg.eigh(np.cov(_root(np.concatenate([sample, _mirrored(sample)])).T))
    return axes[:, : -PROJECTED - 1 : -1].astype(np.float32)


def _members(points: np.ndarray, centres: np.ndarray) -> list[np.ndarray]:
    """For each centre the indices of the points that have it nearest."""
    parts = np.array_split(points, 1 + len(points) // 10_000)  # bounds the memory for distances
    cell = np.concatenate([_distances(part, centres).argmin(axis=1) for part in parts])
    order = np.argsort(cell, kind="stable")
    return np.split(order, np.searchsorted(cell[order], np.arange(1, len(centres))))


# --- verification ---------------------------------------------------------------------------------


def _matches(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of descriptors ((n, 128) and (m, 128) uint8) that are each other's nearest, and clearly so."""
    if min(len(ours), len(theirs)) < MIN_INLIERS:
        return np.zeros(0, int), np.zeros(0, int)
    distances = _distances(_root(ours), _root(theirs))
    nearest = distances.argmin(axis=1)
    best, second = np.partition(distances, 1, axis=1)[:, :2].T
    mutual = distances.argmin(axis=0)[nearest] == np.arange(len(ours))
    chosen = np.flatnonzero(mutual & (best < NEARER**2 * second))
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


def _smooth(detail: np.ndarray) -> np.ndarray:
    """(h, w) float32 about 0, without the sensor's noise, and tolerant of a pixel's misalignment."""
    return cv2.GaussianBlur(detail.astype(np.float32) - 128, (0, 0), 1)


# --- descriptors ----------------------------------------------------------------------------------


def _root(descriptors: np.ndarray) -> np.ndarray:
    """(n, 128) float32 of unit length: under their Euclidean distance SIFT is compared by the Hellinger kernel."""
    descriptors = descriptors.astype(np.float32)
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))


def _mirrored(descriptors: np.ndarray) -> np.ndarray:
    """What SIFT would find in the mirror image: 4 x 4 cells of 8 directions, seen from the other side of the axis."""
    cells = descriptors.reshape(-1, 4, 4, 8)
    return cells[:, ::-1, :, -np.arange(8) % 8].reshape(-1, 128)


def _distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(n, m) float32 squared Euclidean."""
    return (ours * ours).sum(axis=1)[:, None] + (theirs * theirs).sum(axis=1) - 2 * ours @ theirs.T
