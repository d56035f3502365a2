"""What `defect-pipeline check` prints: the verdicts as a table for people, or as JSON for programs."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defect_pipeline.assets.checks import Verdict

OUTCOMES = {True: "[green]passed", False: "[bold red]FAILED", None: "[yellow]not judged"}


def print_json(verdicts: list[Verdict]) -> None:
    """A list of `Verdict.record`, one for each check and class, on stdout."""
    print(json.dumps([verdict.record() for verdict in verdicts], indent=1, allow_nan=False))


def print_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    """A row for each check and class; a failing one ends in its worst images."""
    table = Table("check", "asset", "class", "result", "figures and problems")
    for verdict in verdicts:
        figures = ", ".join(f"{name} {shown(value)}" for name, value in verdict.figures.items())
        said = [*filter(None, [figures]), *verdict.problems[:5]]
        if verdict.worst and verdict.worst.images:
            names = ", ".join(f"{path.name} {shown(value)}" for path, value in verdict.worst.images)
            said.append(f"{verdict.worst.by}: {names} in {verdict.worst.images[0][0].parent}")
        table.add_row(
            verdict.check.name, verdict.check.stage.name, escape(verdict.partition or "all"), OUTCOMES[verdict.passed],
            escape("; ".join(said)),
        )  # fmt: skip
    console.print(table)


def shown(value: Any) -> str:
    """A figure as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
