"""Whether each synthetic image shows its defect in its mask: change against a twin painted without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES, PAINTED_FROM, Painter, load_painter, paint_set
from defect_pipeline.evaluation.faithfulness import TwinFigures, change, twin_figures, twin_table
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.lazy import pd

TWINS, TABLE, REPORT = "twins", "twins.parquet", "report.json"
SHOWN = 6  # best and worst cases each


@stage(
    parents=(*PAINTED_FROM, "sadf_images"),
    settings=lambda pipeline: (pipeline.settings.synthesis, pipeline.settings.precision),
    images=Subset(splits=()),
    group="evaluation",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def faithfulness_report(build: Build) -> None:
    """Whether each defect stands in its mask: change against its twin, painted from the same noise without the mask."""
    report_twins(build, load_painter)


def report_twins(build: Build, load: Callable[[Build], Painter]) -> None:
    """Fill the artifact with the twins of a class's images, painted by what ``load`` gives, and what sets them apart."""
    asked = paint_set(build, build.workdir / TWINS, load, defects=False)
    shutil.copytree(build.workdir / TWINS, build.path / TWINS, ignore=shutil.ignore_patterns("*.partial"))
    images, twins = (
        [read_image(folder / name) for name in asked]
        for folder in (build.parent("sadf_images").path / IMAGES, build.path / TWINS)
    )
    masks = [entry.mask() for entry in asked.values()]
    table = twin_table(images, twins, masks).assign(image=list(asked))
    figures = twin_figures(table)
    table.to_parquet(build.path / TABLE)
    (build.path / REPORT).write_text(json.dumps(asdict(figures)))
    build.metadata |= asdict(figures)
    order = table["ratio_near"].to_numpy().argsort()
    for title, chosen in (("best", order[::-1][:SHOWN]), ("worst", order[:SHOWN])):
        build.picture(title, twins_sheet(build, *([x[i] for i in chosen] for x in (images, twins, masks))))


def read_twins(directory: Path) -> tuple[pd.DataFrame, TwinFigures]:
    """What a `faithfulness_report` artifact says: a row for each image, and of all together."""
    return pd.read_parquet(directory / TABLE), TwinFigures(**json.loads((directory / REPORT).read_text()))


def twins_sheet(build: Build, images: list[np.ndarray], twins: list[np.ndarray], masks: list[np.ndarray]) -> np.ndarray:
    """A sheet of images with their masks, their twins, and what changed between the two."""
    colours = build.colours()
    rows: dict[str, list[np.ndarray]] = {"asked for": [], "with the mask": [], "its twin": [], "change x 2": []}
    for image, twin, mask in zip(images, twins, masks, strict=True):
        changed = np.clip(2 * change(image, twin), 0, 255).astype(np.uint8)
        shown = overlay(twin, [(build.defect_class, mask)], colours), image, twin, np.dstack([changed] * 3)
        for row, picture in zip(rows.values(), shown, strict=True):
            row.append(picture)
    captions = [name for name, row in rows.items() for _ in row]
    return contact_sheet([x for row in rows.values() for x in row], captions, columns=len(images))
