"""What a run ends with: a row of figures for each class, the verdicts, and where to look."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defect_pipeline.assets.checks import Verdict, evaluate_all
from defect_pipeline.assets.stage import INSPECTION, PICTURES, open_dataset
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_jpeg
from defect_pipeline.profiles import Profile
from defect_pipeline.store import Store
from defect_pipeline.summary.figures import Figures
from defect_pipeline.system import Sheet, System


def print_summary(console: Console, store: Store, settings: Profile, system: System) -> bool:
    """Print what the store has, as far as a run came; True when all of it is there and every check passed."""
    try:
        dataset = open_dataset(store.current(INSPECTION))
    except PipelineError:
        return False
    closing, verdicts = system.closing, evaluate_all(system.checks, store, settings)
    table = Table("class", "real train/held-out", *closing.columns, "checks")
    for k in dataset.categories:
        try:
            figures = closing.row(store, k)
        except PipelineError:  # the run did not come so far
            figures = ["-"] * len(closing.columns)
        table.add_row(k, _real(dataset, k), *figures, _outcome(verdicts, k))
    console.print(table)
    console.print("Checks of the whole set:", _outcome(verdicts, None))
    try:
        if headline := closing.headline(store, dataset.categories):
            console.print(headline)
        console.print(_printed(closing.table(store, settings, dataset.categories)))
        classes: tuple[str | None, ...] = dataset.categories if closing.sheet.partitioned else (None,)
        for of in classes:
            sheet = store.current(closing.sheet.name, of).path / PICTURES / "contact sheet.png"
            console.print(f"Contact sheet{f' of {of}' if of else ''}: {sheet}", soft_wrap=True, highlight=False)
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


def export_pictures(store: Store, sheets: Sequence[Sheet], folder: Path) -> None:
    """Write what the tables of `quality` are about to a folder, as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = open_dataset(store.current(INSPECTION)).categories
    for sheet in sheets:
        for k in classes if sheet.stage.partitioned else (None,):
            image = read_image(store.current(sheet.stage.name, k).path / PICTURES / f"{sheet.picture}.png")
            name = " ".join(filter(None, (sheet.stage.name.removesuffix("_report"), sheet.picture, k)))
            save_jpeg(folder / f"{name.replace(' ', '_')}.jpg", image)
