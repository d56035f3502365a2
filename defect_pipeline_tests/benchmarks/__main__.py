"""`python -m defect_pipeline_tests.benchmarks [ROW ...]`: one table of times, ratios, throughput and memory.

Share of peak: floating-point operations of ours a second, against those of a product of large matrices on this machine.
"""

import argparse
import csv
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from defect_pipeline.profiles import EMBEDDED
from defect_pipeline_tests.benchmarks import machine, orchestration, recognition, synthesis
from defect_pipeline_tests.benchmarks.case import SD15, Case, write_random
from defect_pipeline_tests.benchmarks.data import preparing
from defect_pipeline_tests.benchmarks.evaluation import distances, whole_evaluation
from defect_pipeline_tests.benchmarks.startup import starting
from defect_pipeline_tests.benchmarks.timing import Row
from defect_pipeline_tests.benchmarks.training import SCRIPTS, training

Measured = Callable[[int], Row]  # of so many repeats
ROWS: dict[str, Measured] = {
    "distances-300": lambda repeats: distances(300, repeats),
    "distances-3000": lambda repeats: distances(3000, repeats),
    "evaluation-500": lambda repeats: whole_evaluation(500, repeats),
    "features": lambda repeats: recognition.features(64, repeats),
    "segmentor": lambda repeats: recognition.segmentor(10, repeats),
    **{f"preparing-{n}": partial(preparing, n) for n in (1000, 10_000, 100_000)},
    "orchestration": orchestration.whole_run,
    "nothing-stale": orchestration.run_again,
    "help": lambda repeats: starting(
        "defect-pipeline --help", "from defect_pipeline.cli import main; main(['--help'])", repeats
    ),
    "definitions": lambda repeats: starting("loading the definitions", "import defect_pipeline.definitions", repeats),
}
GENERATORS: dict[str, Callable[[Case, int], Row]] = {
    "drivers-default": lambda case, repeats: synthesis.drivers_by_default(case, 8, repeats),
    "drivers-default-16": lambda case, repeats: synthesis.drivers_by_default(case, 8, repeats, steps=16),
    "drivers-alike": lambda case, repeats: synthesis.drivers_alike(case, 20, repeats),
    "drivers-compiled": lambda case, repeats: synthesis.drivers_alike(case, 20, repeats, compiled=True),
    "images-default": lambda case, repeats: synthesis.images_by_default(case, 8, repeats),
    "images-alike": lambda case, repeats: synthesis.images_alike(case, 20, repeats),
    "images-compiled": lambda case, repeats: synthesis.images_alike(case, 20, repeats, compiled=True),
}
HOURS = ("preparing-100000",)
CLEAN_FID = {f"clean-fid-{n}": partial(distances, n, against="clean-fid") for n in (300, 3000)}
TRAININGS = {f"train-{kind}": kind for kind in SCRIPTS}


def main() -> int:
    """The exit status: 1 where a row could not be measured, or its two ways came to different results."""
    names = [*ROWS, *GENERATORS, *CLEAN_FID, *TRAININGS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(names)}; by default all but {', '.join(HOURS)}"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--official", type=Path, metavar="DIR", help="checkout of diffusers, whose example scripts the train rows need"
    )
    parser.add_argument(
        "--backbone", default=EMBEDDED.backbone, metavar="DIR",
        help=f"in diffusers layout, for the rows of generators; {SD15} for random weights in those shapes; by default the embedded one",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=Case.size, help="of the generators' images in px; by default %(default)s"
    )
    parser.add_argument("--device", default=Case.device, help="of the generators: cpu or cuda; by default %(default)s")
    parser.add_argument(
        "--precision", default=Case.precision, choices=("float32", "bfloat16", "float16"), help="of their arithmetic"
    )
    parser.add_argument("--to", type=Path, metavar="FILE.csv", help="write the rows there too, with versions")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(names):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; choose of {', '.join(names)}")
    with TemporaryDirectory() as folder:
        backbone = Path(options.backbone)
        if options.backbone == SD15:
            write_random(backbone := Path(folder) / SD15)
        case = Case(backbone, options.device, options.precision, options.size)
        wanted = options.rows or [name for name in names if name not in HOURS]
        found, failed = measured(wanted, _rows(case, options.official), options.repeats, case)
    versions = machine.versions(case.device)
    Console(width=180).print(_table(found, versions))
    if options.to:
        _write(found, versions, options.to)
    return int(failed)


def _rows(case: Case, official: Path | None) -> dict[str, Measured]:
    """Those that can be measured here."""
    rows = ROWS | {name: partial(row, case) for name, row in GENERATORS.items()}
    if importlib.util.find_spec("cleanfid"):
        rows |= CLEAN_FID
    if official:
        rows |= {name: partial(training, case, kind, official) for name, kind in TRAININGS.items()}
    return rows


def measured(wanted: Sequence[str], rows: Mapping[str, Measured], repeats: int, case: Case) -> tuple[list[Row], bool]:
    """The rows that are wanted, with the most that the machine could do after one of them, and whether one failed."""
    if skipped := [name for name in wanted if name not in rows]:
        print(
            f'Skipped: {", ".join(skipped)}. They need uv pip install -e ".[bench]", and training --official DIR, a checkout '
            "of diffusers.",
            file=sys.stderr,
        )
    found, peaks, failed = [], [], False
    for name in [name for name in wanted if name in rows]:
        try:
            row = rows[name](repeats)
        except Exception as error:  # the others, hours of them perhaps, are not lost by it
            failed = True
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        found.append(row)
        peaks.append(machine.peak(case.device, case.precision))
        print(f"{name}: {_spread(row.ours)}, theirs {_spread(row.theirs)}; {row.against}", file=sys.stderr, flush=True)
    return [replace(row, peak=max(peaks)) for row in found], failed


def _table(rows: Sequence[Row], versions: Mapping[str, object]) -> Table:
    table = Table(
        "figure", "n", "ours", "theirs", "ratio", "a second, ours", "theirs", "of peak", "in products", "memory, ours", "theirs", "against",
        title=f"{', '.join(f'{name} {value}' for name, value in versions.items())}; medians (spread)",
        caption=f"peak {rows[0].peak / 1e9:.0f} GFLOP/s" if rows else "",
    )  # fmt: skip
    for row in rows:
        memory = [f"{held / 2**30:.2f} GiB" if held else "-" for held in row.memory or (0, 0)]
        table.add_row(
            row.name, str(row.n), _spread(row.ours), _spread(row.theirs), _shown(row.ratio, ".1f", "x"),
            *(_shown(row.throughput(times), ".3g", f" {row.unit}") for times in (row.ours, row.theirs)),
            _shown(row.share, ".0%"), _shown(row.products, ".0%"), *memory, row.against,
        )  # fmt: skip
    return table


def _spread(times: list[float]) -> str:
    return f"{median(times):.3g} s ({min(times):.3g} … {max(times):.3g})" if times else "-"


def _shown(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"


def _write(rows: Sequence[Row], versions: Mapping[str, object], file: Path) -> None:
    """A line for each row: seconds, images or steps a second, bytes, shares and ratios as numbers; empty where there are none."""
    lines = []
    for row in rows:
        line: dict[str, object] = {"figure": row.name, "n": row.n, "unit": row.unit, "repeats": len(row.ours)}
        for k, (whose, times) in enumerate((("ours", row.ours), ("theirs", row.theirs))):
            for name, of in (("median", median), ("min", min), ("max", max)):
                line[f"{whose} {name} s"] = of(times) if times else ""
            line[f"{whose} a second"] = row.throughput(times)
            line[f"{whose} memory"] = row.memory[k] if row.memory else ""
        line |= {"ratio": row.ratio, "share of peak": row.share, "share in products": row.products}
        line |= {"against": row.against}
        line |= {**versions, "peak FLOP/s": row.peak}
        lines.append({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()})
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    sys.exit(main())
