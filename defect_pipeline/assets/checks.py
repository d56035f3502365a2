"""Checks on artifacts: pure verdicts, shown by Dagster and printed by `defect-pipeline check`.

Each function makes the check of a stage; which stages are checked how, the systems say.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.classes import ClassConfusion
from defect_pipeline.assets.copying import Copying, read_copies
from defect_pipeline.assets.drivers import read_drivers
from defect_pipeline.assets.fid import gate_problems
from defect_pipeline.assets.stage import INSPECTION, Stage, label, open_dataset
from defect_pipeline.assets.worst import Worst
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.imaging.coco import coco_problems
from defect_pipeline.imaging.drivers import class_colours, driver_problems
from defect_pipeline.imaging.splits import check_splits
from defect_pipeline.profiles import Profile, Thresholds
from defect_pipeline.store import Artifact, Store, digest_of

LINE = 3  # problems of a verdict in one line
Problems = tuple[list[str], dict[str, Any]]  # what is wrong, a sentence each, and the figures behind it
WorstOf = Callable[[Artifact, Store], Worst]


@dataclass(frozen=True, eq=False)
class Check:
    """What is asked of a stage's artifact, of each class where the stage has classes.

    One that is `blocking` stops what comes after its stage in the same run; the others are left to the filter and to
    whoever reads them.
    """

    name: str
    stage: Stage
    description: str
    problems: Callable[[Artifact, Store, Thresholds], Problems]  # with the thresholds of its class, if it has one
    blocking: bool = True
    worst: WorstOf | None = None  # what to look at first when it fails

    @property
    def partitioned(self) -> bool:
        return self.stage.partitioned


@dataclass(frozen=True)
class Verdict:
    """Of a check on the current artifact (of a class)."""

    check: Check
    partition: str | None
    problems: list[str]
    figures: dict[str, Any]
    worst: Worst | None = None
    judged: bool = True  # False where there is nothing to judge; the problem says why

    @property
    def passed(self) -> bool | None:
        """None where it was not judged."""
        return not self.problems if self.judged else None

    @property
    def name(self) -> str:
        """The check's, and the class's where it has one."""
        return label(self.check.name, self.partition)

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.problems[:LINE]) or 'passed'}"

    def record(self) -> dict[str, Any]:
        """For JSON, as the documentation describes it: numbers that are none, or have no end, are null."""
        images = self.worst.images if self.worst else ()
        return {
            "check": self.check.name,
            "asset": self.check.stage.name,
            "class": self.partition,
            "passed": self.passed,
            "figures": {name: _finite(value) for name, value in self.figures.items()},
            "problems": self.problems,
            "worst_by": self.worst.by if self.worst else None,
            "worst_images": [{"image": str(path), "value": _finite(value)} for path, value in images],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- Verdicts ------------------------------------------------------------------------------------------------------


def evaluate(check: Check, store: Store, settings: Profile, partition: str | None) -> Verdict:
    """The verdict on the current artifact, looked at once by a process; of a failing class with its worst images.

    Raises PipelineError when there is no artifact.
    """
    thresholds = settings.thresholds.of(partition) if partition else settings.thresholds
    made = store.since(INSPECTION), store.since(check.stage.name, partition)
    return _evaluated(check, store, partition, _Asked(thresholds), *made)


@dataclass(frozen=True)
class _Asked:
    """Thresholds by what they hold."""

    thresholds: Thresholds

    def __hash__(self) -> int:
        return hash(digest_of(self.thresholds))


@functools.lru_cache(maxsize=1024)  # two sensors ask at every tick, a run and what it prints ask again
def _evaluated(check: Check, store: Store, partition: str | None, asked: _Asked, *made: str) -> Verdict:
    """As `evaluate`, once for each artifact, by when it was ``made``, and for what is asked of it."""
    artifact = store.current(check.stage.name, partition)
    problems, figures = check.problems(artifact, store, asked.thresholds)
    worst = check.worst(artifact, store) if problems and check.worst else None
    return Verdict(check, partition, problems, figures, worst)


def evaluate_all(checks: Sequence[Check], store: Store, settings: Profile) -> list[Verdict]:
    """Check by check and class by class; where there is nothing to judge yet, a verdict that says so.

    Raises PipelineError where there are not even images, or where the thresholds name no class.
    """
    classes = open_dataset(store.current(INSPECTION)).categories
    settings.thresholds.check_classes(classes)
    return [
        _judged(check, store, settings, partition)
        for check in checks
        for partition in (classes if check.partitioned else (None,))
    ]


def closed_gates(
    checks: Sequence[Check], stages: Sequence[Stage], classes: Sequence[str], store: Store, settings: Profile
) -> list[Verdict]:
    """The blocking checks that fail on the current artifacts of some stages: what comes after them waits.

    In a run, a blocking check stops the assets behind it; a later run knows nothing of it and has to look again.
    """
    found = []
    for check in checks:
        if check.blocking and check.stage in stages:
            for partition in classes if check.partitioned else (None,):
                with suppress(PipelineError):  # not made yet
                    found.append(evaluate(check, store, settings, partition))
    return [verdict for verdict in found if verdict.problems]


def _judged(check: Check, store: Store, settings: Profile, partition: str | None) -> Verdict:
    try:
        return evaluate(check, store, settings, partition)
    except PipelineError as error:
        reason = str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:  # files of another version of the program
        reason = f"{label(check.stage.name, partition)} cannot be read ({type(error).__name__}: {error}); run again."
    return Verdict(check, partition, [reason], {}, judged=False)


# --- Checks --------------------------------------------------------------------------------------------------------


def no_group_on_two_sides(images: Stage) -> Check:
    """Of the data set."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        table = open_dataset(artifact).images
        return check_splits(table), {"groups": int(table["group"].nunique()), "images": len(table)}

    return Check("no_group_on_two_sides", images, "No part stands on two sides of the split.", problems)


def driver_contract(drivers: Stage) -> Check:
    """Of topological drivers."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        colours = class_colours(open_dataset(store.current(INSPECTION)).categories)
        found = [(name, driver_problems(driver, colours)) for name, driver in read_drivers(artifact.path)]
        return [f"{name} {problem}" for name, own in found for problem in own], {"drivers": len(found)}

    description = "Background at most 50 of 255, class colours exact, sides multiples of 8."
    return Check("driver_contract", drivers, description, problems)


def coco_valid(name: str, images: Stage, description: str) -> Check:
    """Of a stage that keeps a COCO document beside its images."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        coco = json.loads((artifact.path / "annotations.json").read_text())
        figures = {"images": len(coco["images"]), "instances": len(coco["annotations"])}
        return coco_problems(coco, artifact.path), figures

    return Check(name, images, description, problems)


def defects_in_their_masks(report: Stage, worst: WorstOf) -> Check:
    """Of twins."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        figures = artifact.load(TwinFigures)
        wanted, shown = figures.wanted(thresholds.in_mask), asdict(figures)
        found = []
        if not figures.ratio >= wanted:
            found = [
                f"Under the masks {figures.ratio:.2g} times as much changes as elsewhere; {wanted:g} times are wanted."
            ]
        return found, shown | {"wanted": wanted}

    description = "Images differ from their twins under the masks, by so many times as much as elsewhere."
    return Check("defects_in_their_masks", report, description, problems, blocking=False, worst=worst)


def no_copies(name: str, report: Stage, description: str, worst: WorstOf) -> Check:
    """Of a copy report of any system."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        figures, most = artifact.load(Copying), thresholds.copies
        shown = asdict(figures) | {"copies threshold": most}
        if figures.copies <= most:
            return [], shown
        table = read_copies(artifact.path)
        copies = table[table["copy"]].sort_values("feature_distance")
        pairs = [
            f"{image} is a copy of a defect in {source}"
            for image, source in zip(copies["image"], copies["nearest"], strict=True)
        ]
        return [f"{figures.copies:.0%} of the defects are copies, {most:.0%} may be.", *pairs], shown

    return Check(name, report, description, problems, blocking=False, worst=worst)


def enough_accepted(accepted: Stage, worst: WorstOf) -> Check:
    """Of the filter."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        verdicts, least = read_verdicts(artifact.path), thresholds.accepted
        share = float((verdicts["reason"] == "").mean())
        figures = {"accepted": share, "accepted threshold": least, "images": len(verdicts)}
        if share >= least:
            return [], figures
        counts = verdicts["reason"].value_counts()
        rejected = ", ".join(f"{n} x {reason}" for reason, n in counts.items() if reason)
        return [f"The filter accepts {share:.0%} of the images, {least:.0%} are wanted; rejected: {rejected}."], figures

    description = "The filter accepts enough of the class's images."
    return Check("enough_accepted", accepted, description, problems, worst=worst)


def gate(
    name: str, report: Stage, description: str, held_out: Callable[[Artifact], Comparison], worst: WorstOf
) -> Check:
    """Of a report of KID and FID, of which ``held_out`` reads what counts."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        found = held_out(artifact)
        figures = {"KID": found.kid, "KID threshold": thresholds.kid, "FID": found.fid, "FID threshold": thresholds.fid}
        return gate_problems(found, kid=thresholds.kid, fid=thresholds.fid), figures

    return Check(name, report, description, problems, worst=worst)


def classes_told_apart(report: Stage) -> Check:
    """Of the probe's report."""

    def problems(artifact: Artifact, store: Store, thresholds: Thresholds) -> Problems:
        found = artifact.load(ClassConfusion)
        return found.problems(), {"classes": len(found.classes)}

    description = "Synthetic defects look like their own class to a probe that can tell real ones."
    return Check("classes_told_apart", report, description, problems, blocking=False)
