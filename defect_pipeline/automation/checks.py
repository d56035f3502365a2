"""Asset checks: pure verdicts on artifacts, shown by Dagster and printed by `defect-pipeline check`."""

import functools
import json
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import dagster as dg

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.classes import read_confusion
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.drivers import read_drivers
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.fid import Report, gate_problems
from defect_pipeline.assets.stablesdg.reports import GeneratedReport
from defect_pipeline.assets.stage import Pipeline, label, open_dataset
from defect_pipeline.assets.union.places import INSTEAD
from defect_pipeline.automation.jobs import PLANS, Step
from defect_pipeline.automation.partitions import defect_classes
from defect_pipeline.automation.worst import (
    Worst,
    farthest_of_accepted,
    farthest_of_generated,
    least_in_mask,
    nearest_to_training,
    rejected,
)
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.imaging.coco import coco_problems
from defect_pipeline.imaging.drivers import class_colours, driver_problems
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, thumbnail_markdown
from defect_pipeline.imaging.splits import check_splits
from defect_pipeline.profiles import Thresholds
from defect_pipeline.store import Artifact, Store

SHOWN = 3  # problems of a verdict in one line


@dataclass(frozen=True)
class Check:
    """`problems(artifact, store, pipeline, partition)`: what is wrong, a sentence each, and the figures behind it.

    One that is `blocking` stops what comes after its asset in the same run; the others are left to the filter and to
    whoever reads them.
    """

    name: str
    asset: str
    description: str
    problems: Callable[[Artifact, Store, Pipeline, str | None], tuple[list[str], dict[str, Any]]]
    partitioned: bool = False
    blocking: bool = True
    worst: Callable[[Artifact, Store], Worst] | None = None  # what to look at first when it fails


def _asked(pipeline: Pipeline, partition: str | None) -> Thresholds:
    assert partition is not None
    return pipeline.settings.thresholds.of(partition)


def _split_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    images = open_dataset(artifact).images
    return check_splits(images), {"groups": int(images["group"].nunique()), "images": len(images)}


def _driver_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    colours = class_colours(open_dataset(store.current("inspection_images")).categories)
    found = [(name, driver_problems(driver, colours)) for name, driver in read_drivers(artifact.path)]
    return [f"{name} {problem}" for name, problems in found for problem in problems], {"drivers": len(found)}


def _gate_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    return _gate(Report.read(artifact.path).held_out, pipeline, partition)


def _generated_gate_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    return _gate(GeneratedReport.read(artifact.path).held_out, pipeline, partition)


def _gate(found: Comparison, pipeline: Pipeline, partition: str | None):
    asked = _asked(pipeline, partition)
    figures = {"KID": found.kid, "KID threshold": asked.kid, "FID": found.fid, "FID threshold": asked.fid}
    return gate_problems(found, asked), figures


def _faithful_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    _, figures = read_twins(artifact.path)
    wanted = figures.wanted(_asked(pipeline, partition).in_mask)
    found = f"Under the masks {figures.ratio:.2g} times as much changes as elsewhere; {wanted:g} times are wanted."
    return [found] * (not figures.ratio >= wanted), asdict(figures) | {"wanted": wanted}


def _copy_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    table, figures = read_copies(artifact.path)
    most = _asked(pipeline, partition).copies
    shown = asdict(figures) | {"copies threshold": most}
    if figures.copies <= most:
        return [], shown
    copies = table[table["copy"]].sort_values("feature_distance")
    pairs = [
        f"{image} is a copy of a defect in {source}"
        for image, source in zip(copies["image"], copies["nearest"], strict=True)
    ]
    return [f"{figures.copies:.0%} of the defects are copies, {most:.0%} may be.", *pairs], shown


def _accepted_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    verdicts, least = read_verdicts(artifact.path), _asked(pipeline, partition).accepted
    share = float((verdicts["reason"] == "").mean())
    counts = verdicts["reason"].value_counts()
    rejected = ", ".join(f"{n} x {reason}" for reason, n in counts.items() if reason)
    found = f"The filter accepts {share:.0%} of the images, {least:.0%} are wanted; rejected: {rejected}."
    return [found] * (share < least), {"accepted": share, "accepted threshold": least, "images": len(verdicts)}


def _class_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    report = read_confusion(artifact.path)
    return report.problems(), {"classes": len(report.classes)}


def _coco_problems(artifact: Artifact, store: Store, pipeline: Pipeline, partition: str | None):
    coco = json.loads((artifact.path / "annotations.json").read_text())
    return coco_problems(coco, artifact.path), {"images": len(coco["images"]), "instances": len(coco["annotations"])}


_CHECKS = (
    Check("no_group_on_two_sides", "inspection_images", "No part stands on two sides of the split.", _split_problems),
    Check("driver_contract", "topological_drivers", "Background at most 50 of 255, class colours exact, sides multiples of 8.", _driver_problems, partitioned=True),
    Check("coco_valid_for_class", "sadf_images", "pycocotools loads the class's set; areas, boxes and masks agree.", _coco_problems, partitioned=True),
    Check("defects_in_their_masks", "faithfulness_report", "Images differ from their twins under the masks, by so many times as much as elsewhere.", _faithful_problems, partitioned=True, blocking=False, worst=least_in_mask),
    Check("no_copies", "copy_report", "Hardly any synthetic defect is a copy of a training defect.", _copy_problems, partitioned=True, blocking=False, worst=nearest_to_training),
    Check("enough_accepted", "sadf_accepted", "The filter accepts enough of the class's images.", _accepted_problems, partitioned=True, worst=rejected),
    Check("fid_gate", "fid_report", "KID and FID to held-out real images stay below the thresholds.", _gate_problems, partitioned=True, worst=farthest_of_accepted),
    Check("classes_told_apart", "class_report", "Synthetic defects look like their own class to a probe that can tell real ones.", _class_problems, blocking=False),
    Check("generated_gate", "stablesdg_fid_report", "KID and FID of generated images to held-out real ones stay below the thresholds.", _generated_gate_problems, partitioned=True, worst=farthest_of_generated),
    Check("generated_no_copies", "stablesdg_copy_report", "Hardly any generated image is a copy of a train image.", _copy_problems, partitioned=True, blocking=False, worst=nearest_to_training),
    Check("coco_valid", "sadf_coco", "pycocotools loads the joined set; areas, boxes and masks agree.", _coco_problems),
)  # fmt: skip
_UNITED = [replace(check, asset=INSTEAD[check.asset]) for check in _CHECKS if check.asset in INSTEAD]
CHECKS = (*_CHECKS, *_UNITED)


@dataclass(frozen=True)
class Verdict:
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
        return f"{self.name}: {'; '.join(self.problems[:SHOWN]) or 'passed'}"

    def record(self) -> dict[str, Any]:
        """For JSON, as the README describes it: numbers that are none, or have no end, are null."""
        images = self.worst.images if self.worst else ()
        return {
            "check": self.check.name,
            "asset": self.check.asset,
            "class": self.partition,
            "passed": self.passed,
            "figures": {name: _finite(value) for name, value in self.figures.items()},
            "problems": self.problems,
            "worst_by": self.worst.by if self.worst else None,
            "worst_images": [{"image": str(path), "value": _finite(value)} for path, value in images],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(check: Check, store: Store, pipeline: Pipeline, partition: str | None) -> Verdict:
    """The verdict on the current artifact, looked at once by a process; of a failing class with its worst images.

    Raises PipelineError when there is no artifact.
    """
    made = store.since("inspection_images"), store.since(check.asset, partition)
    return _evaluated(check, store, pipeline, partition, repr(pipeline.settings.thresholds), *made)


@functools.lru_cache(maxsize=1024)  # two sensors ask at every tick, a run and what it prints ask again
def _evaluated(check: Check, store: Store, pipeline: Pipeline, partition: str | None, *asked: str) -> Verdict:
    """As `evaluate`, once for each artifact and for what else is ``asked`` of it."""
    artifact = store.current(check.asset, partition)
    problems, figures = check.problems(artifact, store, pipeline, partition)
    worst = check.worst(artifact, store) if problems and check.worst else None
    return Verdict(check, partition, problems, figures, worst)


def checks_of(pipeline: Pipeline) -> list[Check]:
    """Those on assets of the pipeline's system."""
    made = {asset for step in PLANS[pipeline.system] for asset in step.assets}
    return [check for check in CHECKS if check.asset in made]


def evaluate_all(store: Store, pipeline: Pipeline) -> list[Verdict]:
    """The system's checks, class by class; where there is nothing to judge yet, a verdict that says so.

    Raises PipelineError where there are not even images, or where the thresholds cannot be read or name no class.
    """
    classes = open_dataset(store.current("inspection_images")).categories
    pipeline.settings.thresholds.check_classes(classes)
    return [
        _judged(check, store, pipeline, partition)
        for check in checks_of(pipeline)
        for partition in (classes if check.partitioned else (None,))
    ]


def closed_gates(step: Step, store: Store, pipeline: Pipeline) -> list[Verdict]:
    """The blocking checks that fail on a step's current artifacts: what comes after the step waits for them.

    In a run, a blocking check stops the assets behind it; a later run knows nothing of it and has to look again.
    """
    gates = [check for check in CHECKS if check.blocking and check.asset in step.assets]
    found = []
    for check, partition in ((check, k) for check in gates for k in step.partitions(store)):
        with suppress(PipelineError):  # not made yet
            found.append(evaluate(check, store, pipeline, partition))
    return [verdict for verdict in found if verdict.problems]


def _judged(check: Check, store: Store, pipeline: Pipeline, partition: str | None) -> Verdict:
    try:
        return evaluate(check, store, pipeline, partition)
    except PipelineError as error:
        reason = str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:  # files of another version of the program
        reason = f"{label(check.asset, partition)} cannot be read ({type(error).__name__}: {error}); run again."
    return Verdict(check, partition, [reason], {}, judged=False)


def _sheet_of(worst: Worst) -> str:
    names = [f"{path.stem}: {value:.3g}" for path, value in worst.images]
    return thumbnail_markdown(contact_sheet([read_image(path) for path, _ in worst.images], names, columns=6))


def _dagster_check(check: Check) -> dg.AssetChecksDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # partitioned checks: used knowingly, see the tests

        @dg.asset_check(
            name=check.name,
            asset=check.asset,
            description=check.description,
            blocking=check.blocking,
            partitions_def=defect_classes if check.partitioned else None,
        )
        def run(context: dg.AssetCheckExecutionContext, store: Store, pipeline: Pipeline) -> dg.AssetCheckResult:
            verdict = evaluate(check, store, pipeline, context.partition_key if check.partitioned else None)
            shown = verdict.figures | {"problems": len(verdict.problems)}
            if verdict.problems:
                shown["first problems"] = dg.MetadataValue.md("\n".join(f"- {p}" for p in verdict.problems[:20]))
            if verdict.worst and verdict.worst.images:
                shown[f"worst: {verdict.worst.by}"] = dg.MetadataValue.md(_sheet_of(verdict.worst))
            return dg.AssetCheckResult(passed=not verdict.problems, metadata=shown)

    return run


asset_checks = [_dagster_check(check) for check in CHECKS]
