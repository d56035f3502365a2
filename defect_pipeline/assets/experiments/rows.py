"""From the rows that cells leave behind to a table: means with intervals, CSV, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import dagster as dg
import numpy as np

from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.imaging.sheets import bars
from defect_pipeline.lazy import pd

ROWS = "rows.json"
RESAMPLES = 2000


def table_stage(*parents: str) -> Callable[[Callable[[Build], None]], dg.AssetsDefinition]:
    """Make a build function the asset of a table: it depends on its parents alone."""
    return stage(parents=parents, settings=lambda pipeline: None, group="experiments", kinds={"pandas"}, version="2")


def keep_rows(build: Build, rows: list[dict]) -> None:
    """Write a cell's rows, and show them in the UI."""
    (build.path / ROWS).write_text(json.dumps(rows))
    build.metadata["rows"] = rows


def rows_of(build: Build, asset: str, cells: Iterable[str]) -> pd.DataFrame:
    """The rows of all cells of an asset."""
    return pd.DataFrame(
        [row for cell in cells for row in json.loads((build.parent(asset, cell).path / ROWS).read_text())]
    )


def interval(build: Build, values: pd.Series, name: str) -> dict[str, float]:
    """The mean and its 95 % interval by bootstrap over the values: a class, a seed, or a pair of both each."""
    drawn = np.random.default_rng(build.pipeline.seed).choice(values.to_numpy(), (RESAMPLES, len(values)))
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
