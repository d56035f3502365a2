"""From the rows that cells leave behind to a table: means with intervals, CSV, a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.imaging.sheets import bars
from defect_pipeline.lazy import pd

RESAMPLES = 2000


def table_stage(*parents: Stage) -> Callable[[Callable[[Build], None]], Stage]:
    """Make a build function the stage of a table: it depends on its parents alone."""
    return stage(parents=parents, group="experiments", kinds={"pandas"}, version="2")


def keep_rows(build: Build, rows: list[dict]) -> None:
    """Keep a cell's rows, and show them in the UI."""
    build.keep(rows)
    build.metadata["rows"] = rows


def rows_of(build: Build, measured: Stage, cells: Iterable[str]) -> pd.DataFrame:
    """The rows of all cells of a stage."""
    return pd.DataFrame([row for cell in cells for row in build.read(measured, cell).load(list[dict])])


def interval(values: pd.Series, name: str, seed: int) -> dict[str, float]:
    """The mean and its 95 % interval by bootstrap over the values: a class, a seed, or a pair of both each."""
    drawn = np.random.default_rng(seed).choice(values.to_numpy(), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return {name: float(values.mean()), f"{name} low": float(low), f"{name} high": float(high)}


def bars_of(table: pd.DataFrame, names: str, figure: str, title: str) -> np.ndarray:
    """A bar for each row with the interval of its ``figure``, named by the column ``names``."""
    errors = (table[f"{figure} high"] - table[f"{figure} low"]) / 2
    return bars(table[names].tolist(), table[figure].tolist(), errors.tolist(), title)


def keep_table(build: Build, name: str, table: pd.DataFrame, cells: pd.DataFrame) -> None:
    """Write a table and the cells behind it as CSV, and show the table in the UI."""
    table.to_csv(build.path / f"{name}.csv", index=False)
    cells.to_csv(build.path / "cells.csv", index=False)
    build.metadata[name] = table.round(4).to_dict("records")
