"""Whether each synthetic image shows its defect in its mask: change against a twin painted without it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import IMAGES, From, paint_set
from defect_pipeline.evaluation.faithfulness import change, twin_figures, twin_table
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.lazy import pd

TWINS, TABLE = "twins", "twins.parquet"
CASES = 6  # best and worst cases each


def faithfulness_report(painted_from: From, images: Stage, *, name: str, group: str) -> Stage:
    """The stage that paints the twins of a class's images."""

    @stage(
        name=name,
        parents=(*painted_from.parents, images),
        settings=painted_from.settings,
        images=Subset(splits=()),
        group=group,
        kinds={"torch", "diffusers"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """Whether each defect stands in its mask: change against its twin, painted from the same noise without the mask."""
        report_twins(build, painted_from, images)

    return make


def report_twins(build: Build, painted_from: From, images: Stage) -> None:
    """Fill the artifact with the twins of a class's images, painted as ``images`` were, and what sets them apart."""
    asked = paint_set(build, painted_from, build.workdir / TWINS, defects=False)
    shutil.copytree(build.workdir / TWINS, build.path / TWINS, ignore=shutil.ignore_patterns("*.partial"))
    painted, twins = (
        [read_image(folder / name) for name in asked]
        for folder in (build.read(images).path / IMAGES, build.path / TWINS)
    )
    masks = [entry.mask() for entry in asked.values()]
    table = twin_table(painted, twins, masks).assign(image=list(asked))
    figures = twin_figures(table)
    table.to_parquet(build.path / TABLE)
    build.keep(figures)
    build.metadata |= asdict(figures)
    colours = build.colours
    order = table["ratio_near"].to_numpy().argsort()
    for title, chosen in (("best", order[::-1][:CASES]), ("worst", order[:CASES])):
        own, without, asked_for = ([x[i] for i in chosen] for x in (painted, twins, masks))
        build.picture(title, twins_sheet(own, without, asked_for, build.defect_class, colours))


def read_twins(directory: Path) -> pd.DataFrame:
    """What a report of twins says of each image; of all together it keeps `TwinFigures`."""
    return pd.read_parquet(directory / TABLE)


def twins_sheet(
    images: list[np.ndarray],
    twins: list[np.ndarray],
    masks: list[np.ndarray],
    defect_class: str,
    colours: Mapping[str, tuple[int, int, int]],
) -> np.ndarray:
    """A sheet of images (S, S, 3) uint8 with their masks (S, S) bool, their twins, and what changed between the two."""
    rows: dict[str, list[np.ndarray]] = {"asked for": [], "with the mask": [], "its twin": [], "change x 2": []}
    for image, twin, mask in zip(images, twins, masks, strict=True):
        changed = np.clip(2 * change(image, twin), 0, 255).astype(np.uint8)
        shown = overlay(twin, [(defect_class, mask)], colours), image, twin, np.dstack([changed] * 3)
        for row, picture in zip(rows.values(), shown, strict=True):
            row.append(picture)
    captions = [name for name, row in rows.items() for _ in row]
    return contact_sheet([x for row in rows.values() for x in row], captions, columns=len(images))
