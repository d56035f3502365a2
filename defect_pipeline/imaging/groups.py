"""Which images show the same physical part, found from their pixels.

Two images are linked when local features (SIFT on the contrast-normalised image, so that light does not matter) agree on
one similarity transform, mirrored or not, and the fine texture then agrees nearly everywhere in the overlap. The second
test is what keeps parts of one design apart: they share edges and holes, not the grain between them. Candidates for this
come from voting descriptors, so the cost grows with the number of images, not its square. Linked images form a group.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from defect_pipeline.errors import PipelineError

SIDE = 256  # px of the longer side at which images are compared; smaller ones are not enlarged
GRAIN = 12.0  # px; sigma of the window that light is levelled in
FEATURES = 400  # per image
CANDIDATES = 6  # images verified per image and round
RIVALS = 10  # nearest descriptors that share one vote; a pattern which more than these have is worth nothing
CELL = 256  # descriptors that compete with each other for a vote
PROJECTED = 32  # principal components of a descriptor used in the vote
MIN_INLIERS = 10
MIN_OVERLAP = 0.2  # of the smaller image
MIN_AGREEMENT = 0.5  # correlation that ...
BLOCK = 32  # px; side of the blocks whose texture is compared


class Description(NamedTuple):
    """What grouping needs to know of an image; plain arrays, so that a caller may keep them by content hash."""

    points: np.ndarray  # (n, 2) float32 x, y in px of `detail`
    descriptors: np.ndarray  # (n, 128) uint8 SIFT
    detail: np.ndarray  # (h, w) int8: contrast-normalised grey at most SIDE px long, 42 = one local standard deviation


def describe(image: np.ndarray) -> Description:
    """Features of an image ((H, W, 3) uint8 RGB) that survive another exposure, light, flip, crop, shift or camera turn."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    high = grey - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), GRAIN)
    deviation = np.sqrt(cv2.GaussianBlur(high * high, (0, 0), GRAIN))
    detail = np.clip(42 * high / (deviation + 1), -127, 127).astype(np.int8)  # + 1 grey level: emptiness stays empty
    sift = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=0.02, edgeThreshold=15)
    points, descriptors = sift.detectAndCompute((detail.astype(np.int16) + 128).astype(np.uint8), None)
    if descriptors is None:
        return Description(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), detail)
    return Description(cv2.KeyPoint.convert(points), descriptors.astype(np.uint8), detail)


def find_groups(
    descriptions: Iterable[Description], keys: Sequence[str], part_ids: Sequence[str | None] | None = None
) -> list[str]:
    """A label per image, the same for all images of one part: the first 12 characters of its smallest key.

    `keys` are content hashes: images with one key are one image, and the outcome does not depend on the order of the
    images. `part_ids` (see `part_ids_of`) unite further images: those that share an id. A label changes when an image with
    a smaller key joins; splits therefore go by the images, not by the labels.
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
    """What the group named `part`, else the only capture group, of `part_regex` finds in each path; None where it fails.

    Raises PipelineError when it is no regular expression or has neither.
    """
    try:
        pattern = re.compile(part_regex)
    except re.error as error:
        raise PipelineError(f"The part regex {part_regex!r} is no regular expression ({error}); mend it.") from None
    if "part" not in pattern.groupindex and pattern.groups != 1:
        raise PipelineError(f"The part regex {part_regex!r} needs one capture group, or one named 'part': (?P<part>...).")
    group = "part" if "part" in pattern.groupindex else 1
    return [match.group(group) if (match := pattern.search(path)) else None for path in paths]


def _links(images: list[Description]) -> list[tuple[int, int]]:
    """Pairs of images of one part, as indices; enough to connect all that are found to be one."""
    votes = _votes(images)
    mirrored = votes[1] > votes[0]
    votes = votes.max(axis=0)
    groups, links = DisjointSet(range(len(images))), []
    open_images = set(range(len(images)))
    while open_images:
        grown = set()
        for one, other in _candidates(votes, open_images):
            votes[one, other] = votes[other, one] = 0  # tried
            if not groups.connected(one, other) and same_part(images[one], images[other], bool(mirrored[one, other])):
                links.append((one, other))
                grown |= groups.subset(one) | groups.subset(other)
                groups.merge(one, other)
        for one in grown:
            votes[one, list(groups.subset(one))] = 0
        open_images = grown
    return links


def _candidates(votes: np.ndarray, images: set[int]) -> list[tuple[int, int]]:
    """The pairs of each of these images with those most voted for, the best pair first."""
    pairs = {
        (min(one, int(other)), max(one, int(other)))
        for one in images
        for other in np.argsort(-votes[one], kind="stable")[:CANDIDATES]
        if votes[one, other] > 0
    }
    return sorted(pairs, key=lambda pair: (-votes[pair], pair))


def _votes(images: list[Description]) -> np.ndarray:
    """(2, n, n) float32, symmetric: how much the descriptors of two images favour each other, as they are and mirrored.

    Every descriptor votes for the nearest ones of other images, each by how much nearer it is than the last of RIVALS
    (a texture that everybody has gives no vote). Only descriptors in the same cell of a coarse partition are compared.
    """
    n = len(images)
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(n), [len(image.points) for image in images])
    votes = np.zeros((2, n, n), np.float32)
    if len(owner) == 0:
        return votes
    sample = np.concatenate([image.descriptors[::4] for image in images])
    sample = sample[rng.permutation(len(sample))[:20_000]]
    sample = _root(np.concatenate([sample, _mirrored(sample)]))
    _, axes = np.linalg.eigh(np.cov(sample.T))
    axes = axes[:, ::-1][:, :PROJECTED].astype(np.float32)
    target = np.concatenate([_root(image.descriptors) @ axes for image in images])
    centres = target[rng.permutation(len(target))[: max(1, len(target) // CELL)]]
    cells = _members(_nearest(target, centres), len(centres))
    for mirror in (0, 1):
        query = np.concatenate([_root(_mirrored(image.descriptors)) @ axes for image in images]) if mirror else target
        for asking, asked in zip(_members(_nearest(query, centres), len(centres)), cells, strict=True):
            distance = _distances(query[asking], target[asked])
            distance[owner[asking][:, None] == owner[asked]] = np.inf
            nearest = np.argsort(distance, axis=1)[:, : RIVALS + 1]
            distance = np.take_along_axis(distance, nearest, axis=1)
            worst = np.where(np.isfinite(distance), distance, 0).max(axis=1, initial=0, keepdims=True)
            margin = np.maximum(worst - distance, 0)
            np.add.at(votes[mirror], (owner[asking][:, None], owner[asked][nearest]), margin)
    return votes + votes.swapaxes(1, 2)


def same_part(one: Description, other: Description, mirrored: bool) -> bool:
    """Whether a similarity transform (after a flip, if `mirrored`) lays one image on the other, down to the texture."""
    return _evidence(one, other, mirrored)[0]


def _evidence(one: Description, other: Description, mirrored: bool):
    """TEMP"""
    if mirrored:
        flip = np.float32([one.detail.shape[1] - 1, 0])
        one = Description(np.abs(flip - one.points), _mirrored(one.descriptors), one.detail[:, ::-1])
    ours, theirs = _matches(one.descriptors, other.descriptors)
    if len(ours) < MIN_INLIERS:
        return False, 0, 0, 0,0
    source, target = one.points[ours], other.points[theirs]
    transform, inlier = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=3, maxIters=500)
    if transform is None or inlier.sum() < MIN_INLIERS:
        return False, 0 if transform is None else inlier.sum(), 0, 0,0
    correlation, overlap = _texture_agreement(one.detail, other.detail, transform)
    med=np.median(correlation) if len(correlation) else 0
    return overlap >= MIN_OVERLAP and med >= MIN_AGREEMENT, inlier.sum(), med, np.percentile(correlation,25) if len(correlation) else 0, overlap


def _matches(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of descriptors ((n, 128) and (m, 128) uint8) that are each other's nearest, and clearly nearer than the next."""
    distance = _distances(_root(ours), _root(theirs))
    if min(distance.shape) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    order = np.argpartition(distance, 1, axis=1)[:, :2]
    first, second = np.take_along_axis(distance, order, axis=1).T
    nearest = order[:, 0]
    mutual = distance.argmin(axis=0)[nearest] == np.arange(len(ours))
    chosen = np.flatnonzero(mutual & (first < 0.8 * second))
    return chosen, nearest[chosen]


def _texture_agreement(one: np.ndarray, other: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, float]:
    height, width = other.shape
    moved = cv2.warpAffine(one.astype(np.float32), transform, (width, height))
    inside = cv2.warpAffine(np.ones(one.shape, np.uint8), transform, (width, height), flags=cv2.INTER_NEAREST)
    other = other.astype(np.float32)
    overlap = inside.sum() / min(other.size, one.size * abs(np.linalg.det(transform[:, :2])))
    inside = inside.astype(np.float32)
    moved, other = (cv2.GaussianBlur(p, (0, 0), 1.0) for p in (moved, other))
    def mean(p):
        return cv2.blur(p * inside, (BLOCK, BLOCK))[BLOCK//2::BLOCK, BLOCK//2::BLOCK]
    w = mean(np.ones_like(moved))
    ok = w > .5
    w = np.maximum(w, 1e-6)
    ma, mb = mean(moved)/w, mean(other)/w
    c = mean(moved*other)/w - ma*mb
    va = mean(moved*moved)/w - ma*ma; vb = mean(other*other)/w-mb*mb
    return (c/np.sqrt(np.maximum(va*vb, 1e-6)))[ok], overlap


def _root(descriptors: np.ndarray) -> np.ndarray:
    """(n, 128) float32 of unit length: SIFT under the Hellinger distance."""
    descriptors = descriptors.astype(np.float32)
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))


def _mirrored(descriptors: np.ndarray) -> np.ndarray:
    """What SIFT would have found in the mirror image: 4 x 4 cells x 8 directions, seen from the other side of the axis."""
    cells = descriptors.reshape(-1, 4, 4, 8)
    return cells[:, ::-1, :, (-np.arange(8)) % 8].reshape(-1, 128)


def _distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(n, m) float32 squared Euclidean."""
    return (ours * ours).sum(axis=1)[:, None] + (theirs * theirs).sum(axis=1) - 2 * ours @ theirs.T


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) index of the nearest centre."""
    parts = np.array_split(points, 1 + len(points) // 10_000)
    return np.concatenate([_distances(part, centres).argmin(axis=1) for part in parts])


def _members(cell: np.ndarray, cells: int) -> list[np.ndarray]:
    """The indices that each cell holds."""
    order = np.argsort(cell, kind="stable")
    return np.split(order, np.searchsorted(cell[order], np.arange(1, cells)))
