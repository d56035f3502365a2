"""`python -m defect_pipeline_tests.benchmarks [ROW ...] [--repeats N]`: one table of times and ratios."""

import argparse
import os
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from defect_pipeline_tests.benchmarks import synthesis
from defect_pipeline_tests.benchmarks.data import registering
from defect_pipeline_tests.benchmarks.evaluation import distances, whole_evaluation
from defect_pipeline_tests.benchmarks.startup import starting
from defect_pipeline_tests.benchmarks.timing import Row

ROWS: dict[str, Callable[[int], Row]] = {
    "distances-300": lambda repeats: distances(300, repeats),
    "distances-3000": lambda repeats: distances(3000, repeats),
    "evaluation-500": lambda repeats: whole_evaluation(500, repeats),
    "drivers-default": lambda repeats: synthesis.drivers_by_default(8, repeats),
    "drivers-alike": lambda repeats: synthesis.drivers_alike(20, repeats),
    "images-default": lambda repeats: synthesis.images_by_default(8, repeats),
    "registering-1000": lambda repeats: registering(1000, repeats),
    "help": lambda repeats: starting(
        "defect-pipeline --help", "from defect_pipeline.cli import main; main(['--help'])", repeats
    ),
    "definitions": lambda repeats: starting("loading the definitions", "import defect_pipeline.definitions", repeats),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all of them by default")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; choose of {', '.join(ROWS)}")
    title = f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, medians (spread)"
    table = Table("figure", "n", "ours", "theirs", "ratio", "against", title=title)
    for name in options.rows or ROWS:
        row = ROWS[name](options.repeats)
        ratio = f"{row.ratio:.1f}x" if row.theirs else "-"
        table.add_row(row.name, str(row.n), _shown(row.ours), _shown(row.theirs), ratio, row.against)
    Console(width=140).print(table)


def _shown(times: list[float]) -> str:
    return f"{median(times):.3g} s ({min(times):.3g} … {max(times):.3g})" if times else "-"


if __name__ == "__main__":
    main()
