"""Pictures for people: mask overlays, contact sheets and curves, to a file or into the metadata that Dagster shows."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from defect_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

PAPER, INK = 255, 40  # grey of the sheet and of its captions
CAPTION = 14  # px high
FILL = 0.25  # how much of its colour covers a mask


def overlay(
    image: np.ndarray, masks: Sequence[tuple[str, np.ndarray]], colours: Mapping[str, tuple[int, int, int]]
) -> np.ndarray:
    """The (H, W, 3) uint8 image with each (category, (H, W) bool) tinted and outlined in its class colour.

    The outline runs just outside the mask: what the mask covers stays to be judged, even where it is a pixel wide.
    """
    picture = image.copy()
    for category, mask in masks:
        colour = np.array(colours[category], dtype=np.float32)
        picture[mask] = np.rint((1 - FILL) * picture[mask] + FILL * colour).astype(np.uint8)
        rim = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~mask
        picture[rim] = colours[category]
    return picture


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str] | None = None, *, columns: int = 8, cell: int = 128
) -> np.ndarray:
    """Images (H, W, 3) uint8 of any size in rows of `columns`, each fitted into `cell` x `cell` px over its caption.

    One RGB uint8 array. A caption too long for its cell is cut and ends in "..". Raises ValueError without any image.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    texts = [""] * len(images) if captions is None else captions
    strip = CAPTION if any(texts) else 0
    cells = [_cell(image, text, cell, strip) for image, text in zip(images, texts, strict=True)]
    blank = np.full_like(cells[0], PAPER)
    columns = min(columns, len(cells))
    cells += [blank] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def curve(values: Mapping[str, Sequence[tuple[float, float]]], title: str, xlabel: str, ylabel: str) -> np.ndarray:
    """A small line plot, one line per name over its (x, y) points, as RGB uint8 (300, 480, 3)."""
    canvas, axes = _axes(4.8, 3.0)
    for name, points in values.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.2)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if len(values) > 1:
        axes.legend(fontsize="small")
    return _drawn(canvas)


def bars(names: Sequence[str], values: Sequence[float], errors: Sequence[float], title: str) -> np.ndarray:
    """Values side by side with their errors, one bar a name, as RGB uint8 (300, 640, 3)."""
    canvas, axes = _axes(6.4, 3.0)
    axes.barh(list(names), list(values), xerr=list(errors), height=0.6, capsize=3)
    axes.invert_yaxis()
    axes.set(title=title)
    axes.grid(alpha=0.3, axis="x")
    return _drawn(canvas)


def bars_and_gains(names: Sequence[str], values: np.ndarray, gains: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Left the mean of each row of values (r, s) as a bar with its values as dots, right gains (r, 3) over the first row
    (gain, low, high), which has none; RGB uint8 (320, 900, 3)."""
    canvas = _canvas(9.0, 3.2)
    left, right = canvas.figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.barh(list(names), values.mean(axis=1), height=0.6, alpha=0.6)
    left.scatter(values.ravel(), np.repeat(np.arange(len(names)), values.shape[1]), s=14, color="black", zorder=2)
    rows, (gain, low, high) = np.arange(1, len(names)), gains[1:].T
    right.hlines(rows, low, high, color="black")
    right.scatter(gain, rows, s=30, color="black")
    right.axvline(0, color="grey", linewidth=1)
    left.invert_yaxis()
    for part, title in zip((left, right), titles, strict=True):
        part.set(title=title)
        part.locator_params(axis="x", nbins=5)
        part.grid(alpha=0.3, axis="x")
    return _drawn(canvas)


def heat_map(
    values: np.ndarray, texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], title: str
) -> np.ndarray:
    """Values (r, c) as colours, the smaller the brighter, each under its text; RGB uint8, 90 px a cell and its margins."""
    canvas, axes = _axes(1.6 + 1.1 * len(columns), 1.0 + 0.9 * len(rows))
    axes.imshow(values, cmap="viridis_r", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for r, line in enumerate(texts):
        for c, text in enumerate(line):
            ink = "white" if values[r, c] > middle else "black"
            axes.text(c, r, text, ha="center", va="center", fontsize="small", color=ink)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title)
    return _drawn(canvas)


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes a (H, W, 3) RGB or (H, W) grey uint8 array. Raises PipelineError when the file cannot be written."""
    _write(path, _encoded(image, ".png"))


def save_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes a (H, W, 3) RGB uint8 picture in a sixth of the bytes, for pages; raises as `save_png` does."""
    _write(path, _encoded(image, ".jpg"))


def thumbnail_markdown(image: np.ndarray, max_kb: int = 100) -> str:
    """Markdown that carries the (H, W, 3) uint8 picture in itself, at most `max_kb` KiB long.

    PNG where that fits, for curves and drivers; else WebP, ever smaller until it fits. Metadata is kept with every run,
    and the UI loads all of it.
    """
    address, side = _uri(_encoded(image, ".png"), "png"), max(image.shape[:2])
    while len(text := f"![]({address})") > max_kb * 1024:
        address, side = data_uri(image, side), round(0.8 * side)
    return text


def data_uri(image: np.ndarray, side: int) -> str:
    """The (H, W, 3) uint8 picture for a page that fetches nothing: WebP, its longer side at most ``side`` px."""
    factor = side / max(image.shape[:2])
    if factor < 1:
        height, width = (max(1, round(factor * n)) for n in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _uri(_encoded(image, ".webp", cv2.IMWRITE_WEBP_QUALITY, 85), "webp")


def _axes(width: float, height: float) -> tuple[FigureCanvasAgg, Axes]:
    """Axes to plot on, in inches of 100 px, and what draws them."""
    canvas = _canvas(width, height)
    return canvas, canvas.figure.subplots()


def _canvas(width: float, height: float) -> FigureCanvasAgg:
    """A figure without axes; no pyplot, which keeps figures alive."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=(width, height), dpi=100, layout="constrained"))


def _drawn(canvas: FigureCanvasAgg) -> np.ndarray:
    """(height, width, 3) uint8 RGB of what stands on it."""
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _cell(image: np.ndarray, text: str, cell: int, strip: int) -> np.ndarray:
    """(cell + strip, cell, 3): the image in the middle of a square, with a thin frame of paper, over its caption."""
    room = cell - 2
    factor = room / max(image.shape[:2])
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    # small drivers and masks are shown in their own pixels, not smoothed
    fitted = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    framed = np.full((cell + strip, cell, 3), PAPER, dtype=np.uint8)
    top, left = (cell - height) // 2, (cell - width) // 2
    framed[top : top + height, left : left + width] = fitted
    if text:
        place = (3, cell + strip - 4)
        cv2.putText(framed, _fitted(text, cell - 4), place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (INK,) * 3, 1, cv2.LINE_AA)
    return framed


def _fitted(text: str, width: int) -> str:
    """The text, cut so that it is at most `width` px wide."""
    shown = text
    while len(shown) > 2 and cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)[0][0] > width:
        text = text[:-1]
        shown = text + ".."
    return shown


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise PipelineError(f"{path} cannot be written ({error.strerror}): free or choose another disk.") from error


def _encoded(image: np.ndarray, suffix: str, *settings: int) -> bytes:
    return cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image, settings)[1].tobytes()


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
