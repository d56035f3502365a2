"""Pictures for people must show the defect, stay readable, and fit where they go."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import (
    CAPTION,
    PAPER,
    bars_and_gains,
    contact_sheet,
    curve,
    data_uri,
    overlay,
    save_png,
    thumbnail_markdown,
)

COLOURS = {"pit": (255, 0, 0)}


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_overlay_outlines_the_mask_and_lets_it_be_seen() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 6:12] = True
    shown = overlay(image, [("pit", mask)], COLOURS)
    assert shown[4, 8].tolist() == shown[9, 8].tolist() == [255, 0, 0]
    assert shown[6, 8].tolist() == [139, 75, 75]
    assert shown[15, 20].tolist() == [100, 100, 100] and (image == 100).all()


def test_contact_sheet_fits_every_image_into_its_cell() -> None:
    images = [np.full(shape, 0, np.uint8) for shape in [(40, 200, 3), (300, 100, 3), (8, 8, 3), (64, 64, 3), (9, 5, 3)]]
    sheet = contact_sheet(images, columns=3, cell=64)
    assert sheet.shape == (128, 192, 3) and sheet.dtype == np.uint8
    assert (sheet[64:, 128:] == PAPER).all(), "the sixth cell is empty"
    wide = sheet[:64, :64, 0] == 0
    assert wide.any(axis=0).sum() == 62 and 11 <= wide.any(axis=1).sum() <= 13
    assert (sheet[:64, [0, 63]] == PAPER).all()


def test_captions_are_drawn_and_stay_in_their_cell() -> None:
    images = [np.zeros((64, 64, 3), np.uint8)] * 2
    sheet = contact_sheet(images, ["a caption far too long for a cell", ""], cell=64)
    assert sheet.shape == (64 + CAPTION, 128, 3)
    assert sheet[64:, :64].min() < 100 and (sheet[64:, 62:] == PAPER).all()


def test_a_sheet_without_images_or_with_a_caption_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
    with pytest.raises(ValueError):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)], ["a", "b"])


def test_curve_draws_a_line_for_each_name() -> None:
    plot = curve({"loss": [(0, 1.0), (10, 0.5)], "prior": [(0, 0.8), (10, 0.7)]}, "Training", "step", "loss")
    assert plot.shape == (300, 480, 3) and plot.dtype == np.uint8
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert all(np.all(plot == colour, axis=2).sum() > 100 for colour in (blue, orange))
    assert curve({}, "Nothing yet", "step", "loss").shape == (300, 480, 3)


def test_saved_png_reads_back_exactly(tmp_path: Path) -> None:
    for image in (_noise(13, 17), _noise(13, 17)[..., 0]):
        save_png(tmp_path / "x.png", image)
        back = read_image(tmp_path / "x.png")
        assert (back == (image if image.ndim == 3 else image[..., None])).all()
    with pytest.raises(PipelineError, match="nowhere"):
        save_png(tmp_path / "nowhere" / "x.png", image)


@pytest.mark.parametrize(("size", "max_kb"), [(1200, 100), (1200, 5), (40, 100), (3, 1)])
def test_thumbnail_fits_and_is_a_picture(size: int, max_kb: int) -> None:
    text = thumbnail_markdown(_noise(size, size), max_kb)
    assert len(text) <= max_kb * 1024
    assert text.startswith("![](data:image/") and text.endswith(")")
    data = base64.b64decode(text[text.index("base64,") + 7 : -1])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_small_thumbnail_keeps_its_exact_colours() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:20, 10:20] = 255, 191, 0
    text = thumbnail_markdown(image)
    data = base64.b64decode(text[text.index("base64,") + 7 : -1])
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == image).all()


@pytest.mark.parametrize(("shape", "side"), [((300, 900), 90), ((1, 900), 90), ((20, 30), 90)])
def test_a_picture_for_a_page_is_at_most_so_large_and_never_larger_than_it_was(shape, side) -> None:
    address = data_uri(_noise(*shape), side)
    kind, data = address.split(",")
    assert kind == "data:image/webp;base64"
    seen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).shape[:2]
    factor = min(1, side / max(shape))
    assert seen == tuple(max(1, round(factor * n)) for n in shape)


def test_a_gain_is_drawn_beside_the_bars_and_the_first_row_has_none() -> None:
    values = np.array([[0.1, 0.3], [0.2, 0.4]])

    def drawn(first: float, second: float) -> np.ndarray:
        gains = np.array([[first, first, first], [second, second - 0.05, second + 0.05]])
        return bars_and_gains(["real", "both"], values, gains, ("mAP", "gain"))

    one = drawn(0.0, 0.1)
    assert one.shape == (320, 900, 3) and one.dtype == np.uint8
    assert (drawn(9.0, 0.1) == one).all()
    assert (drawn(0.0, 0.2) != one).any()
