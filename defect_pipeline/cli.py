"""The `defect-pipeline` command. Heavy imports wait until a command needs them."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from defect_pipeline.errors import PipelineError

if TYPE_CHECKING:
    import dagster as dg

    from defect_pipeline.workplace import Workplace

out = Console(width=None if sys.stdout.isatty() else 120)  # a file or a CI's log has no width of its own
err = Console(stderr=True)
FORMATS = ("coco", "coco-polygons", "yolo", "cvat", "label-studio")


class Choices:
    """What an option can be, asked of the systems when it is needed: they take a second to load."""

    def __init__(self, named: Callable[[], list[str]]) -> None:
        self.named = named

    def __iter__(self) -> Iterator[str]:
        return iter(self.named())

    def __contains__(self, name: object) -> bool:
        return name in self.named()


def _systems() -> list[str]:
    from defect_pipeline.systems import SYSTEMS

    return [system.name for system in SYSTEMS]


def _tables_of_all() -> list[str]:
    from defect_pipeline.systems import SYSTEMS

    return [table.number for system in SYSTEMS for table in system.tables]


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
    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help="embedded (CPU), sd15 (GPU, Stable Diffusion 1.5), papers (their values) or a TOML file "
        "(default: what the store was made with, else embedded)",
    )
    profile.add_argument(
        "--set", action="append", dest="overrides", metavar="NAME=VALUE",
        help="one setting, such as synthesis.steps=12; may be repeated; the store keeps it",
    )  # fmt: skip
    settings = argparse.ArgumentParser(add_help=False, parents=[profile])
    settings.add_argument(
        "--data",
        help="folder of images: COCO, class folders with masks, or Pascal VOC (default: that of the store, else the sample)",
    )
    settings.add_argument(
        "--seed", type=int, help="of all that is drawn at random (default: that of the store, else 0)"
    )
    settings.add_argument(
        "--system",
        choices=Choices(_systems),
        metavar="NAME",
        help="one of %(choices)s (default: that of the store, else the first)",
    )
    settings.add_argument("--part-regex", help="regular expression whose group is the part's id within a file name")
    settings.add_argument("--drawn-masks", help="folder with a folder of hand-drawn masks for each class")
    settings.add_argument("--placement-maps", help="folder with CLASS.png: the brighter, the likelier a defect there")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], summary: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary, parents=list(parents))
        made.set_defaults(command=command)
        return made

    add("run", _run, "Run the whole chain, or what is stale of it, and print what came out.", place, settings)
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
    )
    tables.add_argument(
        "--only",
        action="append",
        choices=Choices(_tables_of_all),
        metavar="NUMBER",
        help="these alone, of any system: %(choices)s; may be repeated (default: all of the store's system)",
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
        place, profile,
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
    show = commands.add_parser("profile", help="The settings.").add_subparsers(required=True, metavar="COMMAND").add_parser(
        "show", help="Print all settings of a profile as TOML, each with what it means."
    )  # fmt: skip
    show.set_defaults(command=_show_profile)
    show.add_argument("profile", nargs="?", default="embedded", metavar="NAME|FILE", help="(default: embedded)")
    show.add_argument("--set", action="append", dest="overrides", metavar="NAME=VALUE", help="as for `run`")
    show.add_argument("--diff", action="store_true", help="only what differs from the papers' values")
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


def _workplace(options: argparse.Namespace, *names: str) -> "Workplace":
    """That of the store, with the options of these names in place of what the store was made with."""
    from defect_pipeline.workplace import DEFAULT_STORE, STORE_VARIABLE, Workplace

    store = options.store or Path(os.environ.get(STORE_VARIABLE, DEFAULT_STORE))
    return Workplace.at(store, **{name: getattr(options, name, None) for name in names})


CHOSEN = ("data", "profile", "overrides", "seed", "system", "part_regex", "drawn_masks", "placement_maps")


@contextmanager
def _opened(options: argparse.Namespace) -> "Iterator[tuple[Workplace, dg.Definitions, dg.DagsterInstance]]":
    """The workplace, made ready, its definitions and its Dagster instance. Raises PipelineError when the disk is full."""
    from defect_pipeline.store import explaining_full_disk

    place = _workplace(options, *CHOSEN)
    with explaining_full_disk(place.store_root):
        place.open()
        os.environ["DEFECT_PIPELINE_STORE"] = str(place.store_root)
        from defect_pipeline.automation.instance import open_instance
        from defect_pipeline.definitions import definitions_for

        with open_instance(place.store_root) as instance:  # whose SQLite, too, may find the disk full
            yield place, definitions_for(place), instance


def _made(
    options: argparse.Namespace, chosen: "Callable[[Any], tuple[Any, ...] | None]"
) -> "tuple[Workplace, Any, bool]":
    """Run what is stale of the steps that are ``chosen`` of the store's system, and say what failed: the workplace, the
    system, and whether all went well."""
    from defect_pipeline.automation.jobs import run_everything
    from defect_pipeline.systems import system_named

    with _opened(options) as (place, definitions, instance):
        system = system_named(place.system)
        failures = run_everything(definitions, instance, place.store, place.pipeline, system, chosen(system))
    for failure in failures:
        _say("Failed", failure)
    return place, system, not failures


def _run(options: argparse.Namespace) -> int:
    from defect_pipeline.summary.run import print_summary

    place, system, well = _made(options, lambda system: None)
    return 0 if print_summary(out, place.store, place.settings, system) and well else 1


def _quality(options: argparse.Namespace) -> int:
    from defect_pipeline.summary.run import export_pictures
    from defect_pipeline.systems import SYSTEMS

    def chosen(system: Any) -> tuple[Any, ...]:
        if system.quality is None:
            others = " or ".join(other.name for other in SYSTEMS if other.quality)
            raise PipelineError(f"The generator of --system {system.name} has no such judgement; use one of {others}.")
        return (*system.plan, *system.quality_steps)

    place, system, well = _made(options, chosen)
    if well:
        system.quality.printed(out, place.store, place.settings)
        if options.pictures:
            export_pictures(place.store, system.quality.pictures, options.pictures)
            out.print(f"The pictures are in {options.pictures}.")
    return 0 if well else 1


def _tables(options: argparse.Namespace) -> int:
    from defect_pipeline.summary.tables import export_table, print_table
    from defect_pipeline.systems import SYSTEMS

    asked: list[Any] = []

    def chosen(system: Any) -> tuple[Any, ...]:
        found = [(own, table) for own in SYSTEMS for table in own.tables if table.number in (options.only or ())]
        found = found or [(system, table) for table in system.tables]
        asked.extend(table for _, table in found)
        return tuple(dict.fromkeys(step for own, table in found for step in own.steps_of(table)))

    place, _, well = _made(options, chosen)
    if well:
        for table in asked:
            print_table(out, place.store, table.stage.name, table.printed)
            if options.to:
                export_table(place.store, table.stage.name, options.to)
        if options.to:
            out.print(f"The tables are in {options.to}.")
    return 0 if well else 1


def _export(options: argparse.Namespace) -> int:
    from defect_pipeline.summary.export import export_set
    from defect_pipeline.systems import system_named

    place = _workplace(options)
    n = export_set(
        place.store, place.pipeline, system_named(place.system), options.format, options.to,
        unfiltered=options.unfiltered, with_real=options.with_real, licence=options.license,
    )  # fmt: skip
    out.print(f"{n} images are in {options.to}; its README.md tells how to open them.", soft_wrap=True, highlight=False)
    return 0


def _check(options: argparse.Namespace) -> int:
    from defect_pipeline.assets.checks import evaluate_all
    from defect_pipeline.summary.checks import print_json, print_verdicts
    from defect_pipeline.systems import system_named

    try:
        place = _workplace(options, "profile", "overrides")
        verdicts = evaluate_all(system_named(place.system).checks, place.store, place.settings)
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
    from defect_pipeline.systems import system_named

    place = _workplace(options)
    to = options.to or place.store_root / "report.html"
    write_report(place.store, place.pipeline, system_named(place.system), to)
    out.print(f"The report is {to}.", soft_wrap=True, highlight=False)
    return 0


def _manifest(options: argparse.Namespace) -> int:
    from defect_pipeline.assets.inspection import inspection_images
    from defect_pipeline.assets.stage import open_dataset
    from defect_pipeline.automation.jobs import run_stale
    from defect_pipeline.systems import system_named

    with _opened(options) as (place, definitions, instance):
        job = system_named(place.system).plan[0].job
        failures = run_stale(definitions, instance, place.store, place.pipeline, (inspection_images,), None, job)
    if failures:
        raise PipelineError(" ".join(failures))
    images = open_dataset(place.store.current(inspection_images.name)).images
    rows = images.rename(columns={"defect_class": "class"})[["path", "class", "group", "split"]]
    print(rows.to_csv(index=False) if options.csv else rows.to_string(index=False), end="" if options.csv else "\n")
    return 0


def _show_profile(options: argparse.Namespace) -> int:
    from defect_pipeline.profiles import load_profile, profile_toml

    profile = load_profile(options.profile, options.overrides or ())
    print(profile_toml(profile, diff=options.diff), end="")
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
