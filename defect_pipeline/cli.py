"""The `defect-pipeline` command. Heavy imports wait until a command needs them."""

import argparse
import logging
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from defect_pipeline.errors import PipelineError

out = Console(width=None if sys.stdout.isatty() else 120)  # a file or a CI's log has no width of its own
err = Console(stderr=True)
FORMATS = ("coco", "coco-polygons", "yolo", "cvat", "label-studio")
TABLES = {  # of either paper and of the union, by the names of their assets
    "sadf": {"1": "table_1", "2": "table_2", "3": "table_3", "4": "table_4"},
    "stablesdg": {
        "II": "table_ii",
        "III": "table_iii",
        "IV": "table_iv",
        "V": "table_v",
        "VI": "table_vi",
        "fig9": "figure_9",
    },
    "union": {"union": "table_union"},
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 when a run or a check failed or the input was bad, 2 when the options were
    wrong or `check` found nothing that it could judge."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )
    logging.getLogger("defect_pipeline").setLevel(logging.INFO)
    warnings.filterwarnings("ignore")
    try:
        return options.command(options)
    except PipelineError as error:
        _say("Error", str(error))
        return 1
    except KeyboardInterrupt:
        err.print("Stopped. The same command goes on from the last checkpoint.")
        return 130


def _say(what: str, sentence: str) -> None:
    """On one line, so that a path can be copied from it."""
    err.print(f"[bold red]{what}:[/]", escape(sentence), highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="defect-pipeline", description="Synthetic, annotated defects from few images."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--store", type=Path, default=None, help="folder of results and history (default: data/store)")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--data", help="folder of images: COCO, class folders with masks, or Pascal VOC (default: the sample)"
    )
    settings.add_argument("--profile", help="embedded (CPU, default) or sd15 (GPU, Stable Diffusion 1.5)")
    settings.add_argument("--seed", type=int)
    settings.add_argument(
        "--system",
        choices=("sadf", "stablesdg", "union"),
        help="masks and drivers (default), images from real ones by class, or the second's images with the first's masks",
    )
    settings.add_argument("--part-regex", help="regular expression whose group is the part's id within a file name")
    settings.add_argument("--drawn-masks", help="folder with a folder of hand-drawn masks for each class")
    settings.add_argument("--placement-maps", help="folder with CLASS.png: the brighter, the likelier a defect there")

    limits = argparse.ArgumentParser(add_help=False)
    limits.add_argument("--thresholds", metavar="FILE", help="TOML file of those that differ from the profile's")

    def add(name: str, command, summary: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary, parents=list(parents))
        made.set_defaults(command=command)
        return made

    add("run", _run, "Run the whole chain, or what is stale of it, and print what came out.", place, settings, limits)
    add(
        "quality", _quality, "Judge the generator of a run: autoencoder, KID step by step, faithfulness, order.", place
    ).add_argument("--pictures", type=Path, help="folder to write the pictures behind the tables to, as JPEG")
    tables = add(
        "tables",
        _tables,
        "The papers' tables on the data: 1 to 4 of the first system, II to VI and Fig. 9 of the second, and the union "
        "against both; hours.",
        place,
        settings,
        limits,
    )
    tables.add_argument(
        "--only",
        action="append",
        choices=[number for own in TABLES.values() for number in own],
        help="these alone, of any system; may be repeated (default: all of the store's system)",
    )
    tables.add_argument("--to", type=Path, help="folder to write the tables and their pictures to")
    export = add(
        "export", _export, "Write the synthetic set for a labelling or training tool, with a dataset card.", place
    )
    export.add_argument("--format", choices=FORMATS, required=True)
    export.add_argument(
        "--to", type=Path, required=True, help="folder to write to; an earlier export there is replaced"
    )
    export.add_argument("--unfiltered", action="store_true", help="with the images that the filter rejected")
    export.add_argument("--with-real", action="store_true", help="with the inspection images, each in its split")
    export.add_argument(
        "--license", default="unknown", help="for the dataset card, such as cc-by-4.0 (default: unknown)"
    )
    add(
        "check", _check, "Print every check of the last run; exit code 1 when one fails, 2 when one cannot be judged.",
        place, limits,
    ).add_argument("--json", action="store_true", help="for programs, in place of the table")  # fmt: skip
    add("report", _report, "Write the last run as one HTML page, for people without Dagster.", place).add_argument(
        "--to", type=Path, metavar="FILE", help="(default: report.html in the store)"
    )
    add("manifest", _manifest, "Print path, class, group and split of every image.", place, settings).add_argument(
        "--csv", action="store_true", help="as CSV instead of a table"
    )
    add("ui", _ui, "Open Dagster on the store, with sensors and schedules.", place).add_argument(
        "--port", type=int, default=3000
    )
    sample = add("sample", _sample, "Write the sample data set to a folder.")
    sample.add_argument("directory", type=Path)
    sample.add_argument("--seed", type=int, default=0)
    backbone = commands.add_parser("backbone", help="The embedded backbone.").add_subparsers(
        required=True, metavar="COMMAND"
    )
    train = backbone.add_parser(
        "train",
        help="Train one like it from scratch on procedural surfaces.",
        epilog='A profile uses it that says `backbone = "data/backbone"`, or the folder named by --out.',
    )
    train.set_defaults(command=_train_backbone)
    train.add_argument(
        "--out", type=Path, default=Path("data/backbone"), help="folder of the finished one (default: %(default)s)"
    )
    train.add_argument("--work", type=Path, default=Path("data/store/backbone"), help="folder of checkpoints")
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument(
        "--steps", type=int, help="in place of the recipe's; more of them take a finished training further"
    )
    train.add_argument("--minutes", type=float, help="stop at a checkpoint after so many minutes")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the --work folder")
    return parser


def _workplace(options: argparse.Namespace, **changes: object):
    from defect_pipeline.workplace import DEFAULT_STORE, STORE_VARIABLE, Workplace

    store = options.store or Path(os.environ.get(STORE_VARIABLE, DEFAULT_STORE))
    return Workplace.at(store, **changes)


def _chosen(options: argparse.Namespace) -> dict[str, object]:
    """What the options say of the pipeline; a command that takes none of them goes on with the store's own."""
    return {
        name: getattr(options, name, None)
        for name in ("data", "profile", "seed", "system", "part_regex", "drawn_masks", "placement_maps", "thresholds")
    }


@contextmanager
def _opened(options: argparse.Namespace):
    """The workplace, made ready, its definitions and its Dagster instance. Raises PipelineError when the disk is full."""
    from defect_pipeline.store import room

    place = _workplace(options, **_chosen(options))
    with room(place.store_root):
        place.open()
        os.environ["DEFECT_PIPELINE_STORE"] = str(place.store_root)
        from defect_pipeline.automation.instance import open_instance
        from defect_pipeline.definitions import definitions_for

        with open_instance(place.store_root) as instance:  # whose SQLite, too, may find the disk full
            yield place, definitions_for(place), instance


def _run(options: argparse.Namespace) -> int:
    from defect_pipeline.automation.jobs import run_everything
    from defect_pipeline.summary.run import print_summary

    with _opened(options) as (place, definitions, instance):
        failures = run_everything(definitions, instance, place.store, place.pipeline)
    for failure in failures:
        _say("Failed", failure)
    return 0 if print_summary(out, place.store, place.pipeline) and not failures else 1


def _quality(options: argparse.Namespace) -> int:
    from defect_pipeline.automation.jobs import PLAN, QUALITY, run_everything
    from defect_pipeline.summary.quality import export_pictures, print_quality

    with _opened(options) as (place, definitions, instance):
        failures = run_everything(definitions, instance, place.store, place.pipeline, (*PLAN, *QUALITY))
    for failure in failures:
        _say("Failed", failure)
    if not failures:
        print_quality(out, place.store, place.pipeline)
        if options.pictures:
            export_pictures(place.store, options.pictures)
            out.print(f"The pictures are in {options.pictures}.")
    return 1 if failures else 0


def _tables(options: argparse.Namespace) -> int:
    from defect_pipeline.automation.jobs import EXPERIMENTS, run_everything
    from defect_pipeline.summary.tables import export_table, print_table

    with _opened(options) as (place, definitions, instance):
        wanted = options.only or TABLES[place.pipeline.system]
        chosen = [name for own in TABLES.values() for number, name in own.items() if number in wanted]
        steps = {name: steps for own in EXPERIMENTS.values() for name, steps in own.items()}
        plan = tuple(dict.fromkeys(step for name in chosen for step in steps[name]))
        failures = run_everything(definitions, instance, place.store, place.pipeline, plan)
    for failure in failures:
        _say("Failed", failure)
    if not failures:
        for name in chosen:
            print_table(out, place.store, name)
            if options.to:
                export_table(place.store, name, options.to)
        if options.to:
            out.print(f"The tables are in {options.to}.")
    return 1 if failures else 0


def _export(options: argparse.Namespace) -> int:
    from defect_pipeline.summary.export import export_set

    place = _workplace(options)
    n = export_set(
        place.store, place.pipeline, options.format, options.to,
        unfiltered=options.unfiltered, with_real=options.with_real, licence=options.license,
    )  # fmt: skip
    out.print(f"{n} images are in {options.to}; its README.md tells how to open them.", soft_wrap=True, highlight=False)
    return 0


def _check(options: argparse.Namespace) -> int:
    from defect_pipeline.automation.checks import evaluate_all
    from defect_pipeline.summary.checks import print_json, print_verdicts

    try:
        place = _workplace(options, thresholds=options.thresholds)
        verdicts = evaluate_all(place.store, place.pipeline)
    except PipelineError as error:
        _say("Error", str(error))
        return 2
    if options.json:
        print_json(verdicts)
    else:
        print_verdicts(out, verdicts)
    outcomes = {verdict.passed for verdict in verdicts}
    return 1 if False in outcomes else 2 if None in outcomes else 0


def _report(options: argparse.Namespace) -> int:
    from defect_pipeline.summary.report import write_report

    place = _workplace(options)
    to = options.to or place.store_root / "report.html"
    write_report(place.store, place.pipeline, to)
    out.print(f"The report is {to}.", soft_wrap=True, highlight=False)
    return 0


def _manifest(options: argparse.Namespace) -> int:
    from defect_pipeline.assets.stage import open_dataset
    from defect_pipeline.automation.jobs import run_stale

    with _opened(options) as (place, definitions, instance):
        failures = run_stale(definitions, instance, place.store, place.pipeline, ("inspection_images",))
    if failures:
        raise PipelineError(" ".join(failures))
    images = open_dataset(place.store.current("inspection_images")).images
    rows = images.rename(columns={"defect_class": "class"})[["path", "class", "group", "split"]]
    print(rows.to_csv(index=False) if options.csv else rows.to_string(index=False), end="" if options.csv else "\n")
    return 0


def _ui(options: argparse.Namespace) -> int:
    from defect_pipeline.automation.instance import instance_home

    place = _workplace(options)
    place.open()
    environment = os.environ | {
        "DAGSTER_HOME": str(instance_home(place.store_root)),
        "DEFECT_PIPELINE_STORE": str(place.store_root),
    }
    command = [sys.executable, "-m", "dagster", "dev", "-m", "defect_pipeline.definitions", "-h", "127.0.0.1"]
    os.execvpe(command[0], [*command, "-p", str(options.port)], environment)


def _sample(options: argparse.Namespace) -> int:
    from defect_pipeline.imaging.sample import make_sample

    make_sample(options.directory, options.seed)
    out.print(f"The sample is in {options.directory}.")
    return 0


def _train_backbone(options: argparse.Namespace) -> int:
    from defect_pipeline.diffusion.pretrain import Recipe, train_backbone

    def report(step: int, steps: int, loss: float, rate: float) -> None:
        err.print(f"step {step}/{steps}  loss {loss:.4f}  {rate:.1f} images/s", highlight=False)

    recipe = Recipe(steps=options.steps) if options.steps else Recipe()
    complete = train_backbone(
        options.out, options.work, recipe,
        device=options.device, minutes=options.minutes, resume=options.resume, report=report,
    )  # fmt: skip
    out.print(f"Complete: {options.out}" if complete else "Stopped at a checkpoint; --resume goes on from it.")
    return 0
