"""Picture files to arrays: whatever depth, colour mode or rotation, out comes 8-bit RGB the right way up."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from defect_pipeline.errors import PipelineError

MAX_PIXELS = 89_478_485  # refused above this, before decoding; 256 MiB of 24-bit RGB
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_ORIENTATION = 0x0112  # the EXIF tag


class UnusableFileError(PipelineError):
    """One file that has to be left out: why, and what mends it."""

    def __init__(self, path: Path | str, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}.")
        self.path, self.reason, self.remedy = str(path), reason, remedy


class UnopenedFileError(UnusableFileError):
    """One whose content was not seen: as it is, it may be usable another time."""


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as displayed; `decode` gives the rules. Raises UnusableFileError."""
    return decode(read_bytes(path), path)[0]


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool: where the brightest channel (of a palette: of its colour) exceeds 127. Raises UnusableFileError."""
    red, green, blue = np.moveaxis(read_image(path), 2, 0)
    return (red | green | blue) > 127  # the top bit of any; five times as fast as the maximum of three


def read_bytes(path: Path) -> bytes:
    """The file as it is. Raises UnopenedFileError if it is gone or may not be read, UnusableFileError if empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnopenedFileError(path, f"cannot be read ({error.strerror})", "restore it or its permissions") from None
    if not data:
        raise UnusableFileError(path, "is empty (0 bytes)", "copy it again")
    return data


def decode(data: bytes, path: Path) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 RGB as displayed, and the EXIF orientation (1-8) in which the pixels were stored.

    Depth: 16-bit files are divided by 65535, but by 1023 or 4095 when no pixel is brighter, since 10- and 12-bit
    cameras write 16-bit files that would come out black. Transparency: composited on black, no light where there is no
    picture. Several pages: the first. Raises UnusableFileError (naming `path`) when damaged, larger than MAX_PIXELS,
    or of another depth; UnopenedFileError when there is no memory left for it.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            # asked first: looking for EXIF loads a PNG, and a loaded picture has no tiles left to tell its depth
            deep_colour = picture.mode[:2] != "I;" and any(";16" in str(tile[3]) for tile in picture.tile)
            stored = _orientation(picture)
            picture.load()
            pending = _orientation(picture)  # Pillow turns a TIFF itself while loading, and then drops the tag
            pixels = _deep_colour(data) if deep_colour else _pixels(picture)
        return oriented(_rgb8(pixels), pending), stored
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        remedy = "cut it into tiles or scale it down"
        raise UnusableFileError(path, f"claims more than {MAX_PIXELS} pixels (decompression bomb?)", remedy) from None
    except Image.UnidentifiedImageError:
        raise UnusableFileError(
            path, "is not a picture in a format read here", "save it as PNG, JPEG or TIFF"
        ) from None
    except MemoryError:
        raise UnopenedFileError(
            path, "does not fit into the memory that is left", "free some, or scale it down"
        ) from None
    except Exception as error:  # damaged data makes Pillow's readers raise almost anything
        raise UnusableFileError(path, f"is damaged or truncated ({error})", "copy or export it again") from error


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W[, C]) turned as the EXIF orientation (1-8) asks for display."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _orientation(picture: Image.Image) -> int:
    orientation = picture.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _pixels(picture: Image.Image) -> np.ndarray:
    """(H, W) uint16 or int32 for deep grey; else (H, W, 3 or 4) uint8."""
    if picture.mode.startswith("I"):
        return np.asarray(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits")
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _deep_colour(data: bytes) -> np.ndarray:
    """(H, W, 3 or 4) uint16 RGB(A). OpenCV, because Pillow keeps only the high byte of 16-bit colour."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("its 16-bit colours cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _rgb8(pixels: np.ndarray) -> np.ndarray:
    """(H, W[, 3 or 4]) of 8 or 16 bits to (H, W, 3) uint8."""
    pixels = np.atleast_3d(pixels)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if pixels.dtype != np.uint8:
        if colour.min() < 0 or colour.max() > 65535:
            raise ValueError("more than 16 bits; save it with 8 or 16 bits")
        top = next(top for top in (1023, 4095, 65535) if colour.max() <= top)
        colour = np.rint(colour * np.float32(255 / top)).astype(np.uint8)
        alpha = (alpha // 257).astype(np.uint8)
    if alpha.size:
        colour = ((colour.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour
