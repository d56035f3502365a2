"""The index of local features: its votes are those of the definition, however its images were added."""

import numpy as np
import pytest

from defect_pipeline.imaging import neighbours
from defect_pipeline.imaging.neighbours import CELL, RIVALS, Index, mirrored, roots

COUNTS = (40, 0, 25, 60, 1, 50)  # descriptors of each image: fewer than two cells of them


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """Random descriptors, of which image 3 shares some with image 0, and some with the mirror image of image 5."""
    rng = np.random.default_rng(0)
    drawn = {f"image {k}": rng.integers(0, 120, (n, 128)).astype(np.uint8) for k, n in enumerate(COUNTS)}
    drawn["image 3"][:20] = drawn["image 0"][:20]
    drawn["image 3"][20:30] = mirrored(drawn["image 5"][:10])
    return drawn


def votes_by_definition(index: Index, images: dict[str, np.ndarray], turned: bool) -> np.ndarray:
    """(n, n): each descriptor of an image, of its mirror image if ``turned``, to all of the others in turn."""
    points = {key: roots(own) @ index.axes for key, own in images.items()}
    cast = np.zeros((len(images), len(images)))
    for key, own in images.items():
        others = [(index.numbers[name], point) for name in images if name != key for point in points[name]]
        for point in roots(mirrored(own) if turned else own) @ index.axes:
            nearest = sorted((float(((point - other) ** 2).sum()), number) for number, other in others)[: RIVALS + 1]
            for distance, number in nearest:
                cast[index.numbers[key], number] += nearest[-1][0] - distance
    return cast + cast.T


def test_votes_are_those_of_the_definition(images: dict[str, np.ndarray]) -> None:
    assert sum(COUNTS) < 2 * CELL
    index = Index.of(images)
    votes = index.votes(images)
    for found, turned in ((votes.straight, False), (votes.mirrored, True)):
        expected = votes_by_definition(index, images, turned)
        np.testing.assert_allclose(found.toarray(), expected, atol=0.01 * expected.max())  # points have 16 bits
    others, counts = votes.of(index.numbers["image 3"])
    assert {int(others[k]) for k in np.argsort(-counts)[:2]} == {0, 5}  # numbered in their order
    assert votes.flipped(3, 5)
    assert not votes.flipped(3, 0)


def test_how_many_are_projected_at_once_does_not_matter(
    images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Index.of(images).votes(images)
    monkeypatch.setattr(neighbours, "AT_ONCE", 2)
    in_pairs = Index.of(images).votes(images)
    for one, other in zip(together, in_pairs, strict=True):
        np.testing.assert_allclose(one.toarray(), other.toarray(), atol=1e-3 * one.max())
