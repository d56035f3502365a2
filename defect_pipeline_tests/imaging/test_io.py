"""Every kind of picture file must come in as the same 8-bit RGB, and every damaged one as a sentence."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.io import MAX_PIXELS, UnopenedFileError, oriented, read_image, read_mask


def _colours() -> np.ndarray:
    """(20, 30, 3) uint8 without any symmetry, so that a swap of axes or channels shows."""
    rows, columns = np.mgrid[:20, :30]
    return np.dstack([rows * 12, columns * 8, (rows + columns) * 5]).astype(np.uint8)


def _grey() -> np.ndarray:
    return _colours()[..., 2]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_eight_bit_colour_is_exact(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(_colours()).save(tmp_path / f"x.{suffix}", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}"), _colours())


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [1023, 4095, 65535])
def test_sixteen_bit_is_scaled_by_the_camera_range(tmp_path: Path, suffix: str, top: int) -> None:
    stored = np.rint(_colours() / 255.0 * top).astype(np.uint16)
    stored[0, 0] = top
    expected = _colours()
    expected[0, 0] = 255
    cv2.imwrite(str(tmp_path / f"rgb.{suffix}"), stored[..., ::-1])
    cv2.imwrite(str(tmp_path / f"grey.{suffix}"), stored[..., 2])
    np.testing.assert_array_equal(read_image(tmp_path / f"rgb.{suffix}"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / f"grey.{suffix}"), expected[..., [2, 2, 2]])


def test_sixteen_bit_transparency_is_composited_on_black(tmp_path: Path) -> None:
    pixels = np.full((4, 6, 4), 65535, np.uint16)
    pixels[:2, :, 3] = 0
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    image = read_image(tmp_path / "x.png")
    assert image[:2].max() == 0 and image[2:].min() == 255


def test_transparency_is_composited_on_black(tmp_path: Path) -> None:
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 128
    Image.fromarray(np.dstack([_colours(), alpha])).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image[:, :10].max() == 0
    np.testing.assert_allclose(image[:, 10:20], _colours()[:, 10:20] * (128 / 255), atol=0.51)
    np.testing.assert_array_equal(image[:, 20:], _colours()[:, 20:])


def test_palette_comes_in_by_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray((np.arange(600).reshape(20, 30) % 2).astype(np.uint8), "P")
    picture.putpalette([200, 10, 30, 5, 180, 90])
    picture.save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png")[0, :2].tolist() == [[200, 10, 30], [5, 180, 90]]
    picture.save(tmp_path / "clear.png", transparency=0)
    assert read_image(tmp_path / "clear.png")[0, :2].tolist() == [[0, 0, 0], [5, 180, 90]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.where(_grey() > 100, 255, 0).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "x.tif")
    image = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(image, np.repeat(np.where(_grey() > 100, 255, 0)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_pillow(orientation: int) -> None:
    picture = Image.fromarray(_colours())
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(oriented(_colours(), orientation), np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("depth", [8, 16])
def test_rotated_files_come_in_as_displayed(tmp_path: Path, suffix: str, depth: int) -> None:
    if depth == 16 and suffix == "webp":
        pytest.skip("WebP has 8 bits only")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = _grey() if depth == 8 else _grey().astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}", exif=exif, lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}")[..., 0], oriented(_grey(), 6))


def test_sixteen_bit_colour_png_is_rotated(tmp_path: Path) -> None:
    stored = _colours().astype(np.uint16) * 257
    data = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 8
    body = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), oriented(_colours(), 8))


def test_mask_threshold_and_colour(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png").tolist() == [[False, False, True, True]]
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)).save(tmp_path / "red.png")
    assert read_mask(tmp_path / "red.png").tolist() == [[True, False]]


def _bomb() -> bytes:
    """A PNG header that claims 100000 x 100000 pixels, in under 100 bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10)))]
    framed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(buffer, suffix)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "0 bytes"),
        (b"this is text", "not a picture"),
        (_encoded("PNG")[:2000], "truncated"),
        (_encoded("JPEG")[:1500], "truncated"),
        (_encoded("TIFF")[:1500], "truncated"),
        (_bomb(), "decompression bomb"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(PipelineError, match=f"bad.png.*{word}"):
        read_image(tmp_path / "bad.png")


def test_the_pixel_bound_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(_grey()).save(tmp_path / "x.png")
    monkeypatch.setattr("defect_pipeline.imaging.io.MAX_PIXELS", 599)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PipelineError, match="599 pixels"):
        read_image(tmp_path / "x.png")
    assert MAX_PIXELS < 2**27


def test_want_of_memory_is_not_the_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(picture: Image.Image) -> None:
        raise MemoryError

    Image.fromarray(_grey()).save(tmp_path / "x.bmp")
    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UnopenedFileError, match="memory"):
        read_image(tmp_path / "x.bmp")


def test_a_missing_file_and_float_pixels_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="gone.png"):
        read_image(tmp_path / "gone.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(PipelineError, match="floating-point"):
        read_image(tmp_path / "float.tif")
