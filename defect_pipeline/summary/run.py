"""What a run of either system ends with: a row of figures for each class, the verdicts, and where to look."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.fid import Report, whole_set
from defect_pipeline.assets.stablesdg.reports import GeneratedReport
from defect_pipeline.assets.stage import PICTURES, Pipeline, open_dataset
from defect_pipeline.assets.union.places import seen_as_first
from defect_pipeline.automation.checks import Verdict, evaluate_all
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.store import Store
from defect_pipeline.summary.figures import Figures, fid_floor, interval, recogniser, segmentor


def print_summary(console: Console, store: Store, pipeline: Pipeline) -> bool:
    """Print what the store has, as far as a run came; True when all of it is there and every check passed."""
    try:
        dataset = open_dataset(store.current("inspection_images"))
    except PipelineError:
        return False
    shown, verdicts = SHOWN[pipeline.system], evaluate_all(store, pipeline)
    store = seen_as_first(store, pipeline)
    table = Table("class", "real train/held-out", *shown.columns, "checks")
    for k in dataset.categories:
        try:
            figures = shown.figures(store, k)
        except PipelineError:  # the run did not come so far
            figures = ["-"] * len(shown.columns)
        table.add_row(k, _real(dataset, k), *figures, _outcome(verdicts, k))
    console.print(table)
    console.print("Checks of the whole set:", _outcome(verdicts, None))
    try:
        shown.of_all(console, store, pipeline, dataset)
    except PipelineError:
        return False
    return all(verdict.passed for verdict in verdicts)


def _real(dataset: Dataset, defect_class: str) -> str:
    sides = dataset.images.loc[dataset.of_class(defect_class), "split"]
    return f"{(sides == 'train').sum()} / {(sides != 'train').sum()}"


def _outcome(verdicts: list[Verdict], partition: str | None) -> str:
    failed = [verdict.check.name for verdict in verdicts if verdict.partition == partition and not verdict.passed]
    return f"[bold red]{', '.join(failed)} failed" if failed else "[green]passed"


def _printed(figures: Figures) -> Table:
    table = Table(*figures.columns, title=figures.title)
    for row in figures.rows:
        table.add_row(*map(escape, row))
    return table


# --- System A and the union -----------------------------------------------------------------------------------------


def _masked_figures(store: Store, defect_class: str) -> list[str]:
    verdicts = read_verdicts(store.current("sadf_accepted", defect_class).path)
    _, twins = read_twins(store.current("faithfulness_report", defect_class).path)
    _, copying = read_copies(store.current("copy_report", defect_class).path)
    found = Report.read(store.current("fid_report", defect_class).path).held_out
    return [
        f"{(verdicts['reason'] == '').sum()} of {len(verdicts)}", f"{twins.ratio:.0f}x", f"{copying.copies:.0%}",
        interval(found), f"{found.floor_kid:.3f}", f"{found.fid:.1f}", fid_floor(found),
    ]  # fmt: skip


def _masked_of_all(console: Console, store: Store, pipeline: Pipeline, dataset: Dataset) -> None:
    fid, synthetic, real = whole_set([store.current("fid_report", k).path for k in dataset.categories])
    console.print(f"All classes together: FID {fid:.1f} ({synthetic} accepted images, {real} held-out crops)")
    console.print(_printed(segmentor(store, pipeline, dataset.categories)))
    sheet = store.current("sadf_coco").path / PICTURES / "contact sheet.png"
    console.print(f"Contact sheet: {sheet}", soft_wrap=True, highlight=False)


# --- System B ------------------------------------------------------------------------------------------------------


def _stablesdg_figures(store: Store, defect_class: str) -> list[str]:
    made = store.current("stablesdg_images", defect_class).metadata
    _, copying = read_copies(store.current("stablesdg_copy_report", defect_class).path)
    report = GeneratedReport.read(store.current("stablesdg_fid_report", defect_class).path)
    return [
        f"{made['strength']:g} / {made['guidance']:g}", str(made["images"]), f"{copying.copies:.0%}",
        interval(report.held_out), f"{report.copies.kid:.3f}", f"{report.held_out.floor_kid:.3f}", f"{report.held_out.fid:.1f}",
    ]  # fmt: skip


def _stablesdg_of_all(console: Console, store: Store, pipeline: Pipeline, dataset: Dataset) -> None:
    console.print(_printed(recogniser(store, pipeline, dataset.categories)))
    for k in dataset.categories:
        sheet = store.current("stablesdg_images", k).path / PICTURES / "contact sheet.png"
        console.print(f"Contact sheet of {k}: {sheet}", soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Shown:
    """What is printed of a system: figures of each class under their columns, then of all classes. Both raise
    PipelineError where the run did not come so far."""

    columns: tuple[str, ...]
    figures: Callable[[Store, str], list[str]]
    of_all: Callable[[Console, Store, Pipeline, Dataset], None]


_MASKED = Shown(
    ("accepted", "in mask", "copies", "KID (95 % CI)", "KID floor", "FID", "FID floor (n)"),
    _masked_figures, _masked_of_all,
)  # fmt: skip
SHOWN = {
    "sadf": _MASKED,
    "union": _MASKED,
    "stablesdg": Shown(
        ("s / guidance", "images", "copies", "KID (95 % CI)", "KID of copies", "KID floor", "FID"),
        _stablesdg_figures, _stablesdg_of_all,
    ),
}  # fmt: skip
