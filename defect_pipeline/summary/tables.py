"""What `defect-pipeline tables` ends with: the papers' tables on the user's own data."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from defect_pipeline.assets.stage import PICTURES
from defect_pipeline.lazy import pd
from defect_pipeline.store import Store


def print_table(console: Console, store: Store, name: str, printed: Callable[[str, list[dict]], Table]) -> None:
    """Print the table that a stage of this name made."""
    rows = pd.read_csv(store.current(name).path / f"{name}.csv").to_dict("records")
    console.print(printed(name, rows))


def export_table(store: Store, name: str, folder: Path) -> None:
    """Write a table as CSV and its picture as PNG to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    directory = store.current(name).path
    shutil.copyfile(directory / f"{name}.csv", folder / f"{name}.csv")
    shutil.copyfile(directory / PICTURES / f"{name}.png", folder / f"{name}.png")


def segmentor_table(name: str, rows: list[dict]) -> Table:
    """Paper A, Tables 1 and 2."""
    first = rows[0]
    title = f"{name}: {first['groups']:.1f} groups, {first['seeds']} seeds, {first['test images']:.0f} test images"
    table = Table("arm", "segm mAP", "AP50", "bbox mAP", "gain over real (95 % CI)", "real images seen", title=title)
    for row in rows:
        figures = [f"{row[f]:.3f} ± {row[f'{f} std']:.3f}" for f in ("segm_map", "segm_ap50", "bbox_map")]
        table.add_row(
            row["arm"], *figures, _with_interval(row, "gain", "+.3f"),
            f"{row['real images']:.0f} x {row['each real image seen']:.1f}",
        )  # fmt: skip
    return table


def variety_table(name: str, rows: list[dict]) -> Table:
    """Paper A, Table 3."""
    table = Table("images", "L2", "L2 under masks", "mutual information", "KID", "FID", "n", title=name)
    for row in rows:
        figures = [_with_interval(row, f, ".3g") for f in ("l2", "l2_under_masks", "mutual_information", "kid", "fid")]
        table.add_row(row["images"], *figures, str(row["n"]))
    return table


def order_table(name: str, rows: list[dict]) -> Table:
    """Paper A, Table 4."""
    table = Table(
        "order",
        "KID",
        "change",
        "FID",
        "change",
        "n",
        title=f"{name}: a tenth of the groups (on average {rows[0]['groups']:.1f}), {rows[0]['seeds']} seeds",
    )
    for row in rows:
        figures = [
            _with_interval(row, f, form)
            for f, form in (("kid", ".3f"), ("kid change", "+.3f"), ("fid", ".1f"), ("fid change", "+.1f"))
        ]
        table.add_row(row["order"], *figures, str(row["n"]))
    return table


def adaptation_table(name: str, rows: list[dict]) -> Table:
    """Paper B, Tables II to IV."""
    title = f"{name}: mean of {rows[0]['classes']} classes, to held-out images, {rows[0]['extractor']}"
    keys = list(rows[0])[: list(rows[0]).index("kid")]
    table = Table(*keys, "KID", "FID", "copies", "nearest train image", "n", title=title)
    for row in rows:
        table.add_row(
            *(str(row[key]) for key in keys), _with_interval(row, "kid", ".3f"), _with_interval(row, "fid", ".1f"),
            f"{row['copies']:.0%}", f"{row['distance']:.3f}", str(row["n"]),
        )  # fmt: skip
    return table


def generators_table(name: str, rows: list[dict]) -> Table:
    """Paper B, Table V."""
    classes = [column.removeprefix("kid, ") for column in rows[0] if column.startswith("kid, ")]
    title = f"{name}: to held-out images of each class, {rows[0]['extractor']}"
    table = Table("images", "", *classes, "mean (95 % CI)", "n", "steps", "minutes", title=title)
    for row in rows:
        by_class = [f"{row[f'kid, {k}']:.3f}\n{row[f'fid, {k}']:.1f}\n{row[f'copies, {k}']:.0%}" for k in classes]
        mean = f"{_with_interval(row, 'kid', '.3f')}\n{_with_interval(row, 'fid', '.1f')}\n{row['copies']:.0%}"
        table.add_row(
            row["generator"], "KID\nFID\ncopies", *by_class, mean,
            str(row["n"]), f"{row['steps']:.0f}", f"{row['minutes']:.1f}",
        )  # fmt: skip
    return table


def recognition_table(name: str, rows: list[dict]) -> Table:
    """Paper B, Table VI and Fig. 9."""
    title = f"{name}: {rows[0]['seeds']} seeds, {rows[0]['n']:.0f} test images"
    table = Table("train groups", "classifier", "arm", "accuracy", "gain over real (95 % CI)", "images", title=title)
    for row in rows:
        table.add_row(
            row["share"], row["model"], row["arm"], f"{row['accuracy']:.1%} ± {row['accuracy std']:.1%}",
            _with_interval(row, "gain", "+.3f"), f"{row['real images']:.0f} + {row['synthetic images']:.0f}",
        )  # fmt: skip
    return table


def union_table(name: str, rows: list[dict]) -> Table:
    """Both systems and their union."""
    first = rows[0]
    title = (
        f"{name}: mean of {first['classes']} classes, to held-out images, {first['extractor']}, seed {first['seed']}"
    )
    table = Table("system", "KID, crops", "KID, pictures", "in mask", "copies", "accepted", "n", title=title)
    for row in rows:
        masked = ["-", "-"] if math.isnan(row["in mask"]) else [f"{row['in mask']:.0f}x", f"{row['accepted']:.0%}"]
        table.add_row(
            row["system"], _with_interval(row, "kid crops", ".3f"), _with_interval(row, "kid pictures", ".3f"),
            masked[0], f"{row['copies']:.0%}", masked[1], str(row["n"]),
        )  # fmt: skip
    return table


def _with_interval(row: dict, figure: str, form: str) -> str:
    return f"{row[figure]:{form}} ({row[f'{figure} low']:{form}} … {row[f'{figure} high']:{form}})"
