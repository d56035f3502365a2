"""The offline variants must repeat with their seed, differ among themselves, and show nothing but the component."""

import numpy as np
import pytest

from defect_pipeline.imaging.augment import variants

SIZE = 64


def _image(height: int = 90, width: int = 200) -> np.ndarray:
    """(H, W, 3) uint8, a ramp with stripes; 40 at its darkest."""
    rows, columns = np.mgrid[:height, :width]
    grey = 60 + rows / height * 60 + columns / width * 60 + 20 * (columns % 16 < 4)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_variants_have_the_size_and_number_asked_for() -> None:
    views = variants(_image(), SIZE, seed=3)
    assert len(views) == 10
    assert all(view.shape == (SIZE, SIZE, 3) and view.dtype == np.uint8 for view in views)


def test_the_same_seed_gives_the_same_views_however_many() -> None:
    first, again = variants(_image(), SIZE, seed=3), variants(_image(), SIZE, seed=3, n=4)
    assert all((a == b).all() for a, b in zip(first[:4], again, strict=True))


def test_views_differ_from_each_other_and_from_another_seed() -> None:
    views = variants(_image(), SIZE, seed=3) + variants(_image(), SIZE, seed=4)
    assert len({view.tobytes() for view in views}) == 20


@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (50, 50)])
def test_no_view_shows_what_the_image_does_not(shape: tuple[int, int]) -> None:
    """Black corners or a gross change of light would teach the generator another component."""
    image = _image(*shape)
    for view in variants(image, SIZE, seed=1, n=20):
        assert view.min() > 10
        corners = view[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
        assert corners.min() > 25
        assert 0.6 < view.mean() / image.mean() < 1.5


def test_grey_stays_grey() -> None:
    """Noise of its own in each channel would tint what a grey camera took."""
    assert all((view == view[..., :1]).all() for view in variants(_image(), SIZE, seed=6, n=20))


def test_nothing_is_mirrored_in_at_the_edges() -> None:
    """Reflected borders double structures: one line in the image is one line, or none, in every view."""
    image = np.full((120, 120, 3), 180, np.uint8)
    image[:, 3:7] = 20
    for view in variants(image, SIZE, seed=5, n=20, zoom=(1.0, 1.0)):
        dark = np.pad(view[..., 1] < 100, ((0, 0), (1, 1)))
        assert np.count_nonzero(np.diff(dark.astype(int), axis=1) == 1, axis=1).max() <= 1


def test_a_dim_exposure_is_changed_in_proportion() -> None:
    image = _image() // 5
    assert all(0.58 < view.mean() / image.mean() < 1.6 for view in variants(image, SIZE, seed=7, n=20))


def test_zoom_enlarges_what_is_seen() -> None:
    image = np.full((200, 200, 3), 180, np.uint8)
    image[:, ::20] = 40  # ten lines
    wide, near = (variants(image, SIZE, seed=2, n=6, zoom=(zoom, zoom)) for zoom in (1.0, 3.0))

    def lines(view: np.ndarray) -> int:
        return np.count_nonzero(np.diff((view[SIZE // 2, :, 1] < 165).astype(int)) == 1)

    assert np.mean([lines(view) for view in near]) < 0.5 * np.mean([lines(view) for view in wide])
