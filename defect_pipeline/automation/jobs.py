"""The chain as jobs: one run a class where there are classes, and a driver that runs the whole of it in order."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dagster as dg

from defect_pipeline.assets.checks import Verdict, closed_gates
from defect_pipeline.assets.stage import Stage, label
from defect_pipeline.automation.partitions import DEFECT_CLASS, defect_classes
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.store import Store
from defect_pipeline.system import Step, System, classes_of

log = logging.getLogger("defect_pipeline")


def job_of(step: Step) -> Any:
    """The Dagster job of a step."""
    cells = dg.StaticPartitionsDefinition(list(step.cells)) if step.cells else None
    names, each = [one.name for one in step.stages], "defect class" if step.partitioned else "cell"
    return dg.define_asset_job(
        step.job,
        selection=dg.AssetSelection.assets(*names),
        partitions_def=defect_classes if step.partitioned else cells,
        description=" → ".join(names) + (f", one run for each {each}" if step.partitioned or cells else ""),
    )


def failure_reasons(events: Iterable[dg.DagsterEvent]) -> Iterator[str]:
    """What each failed step of a run raised, not what that came from; a check that failed says so itself."""
    for event in events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
                error = error.cause
            yield "unknown" if error is None else " ".join(error.message.split(": ", 1)[-1].split())


def gates_behind(step: Step, system: System, store: Store, pipeline: Pipeline) -> list[Verdict]:
    """The gates of a step that are closed."""
    classes = step.partitions(store) if step.partitioned else ()
    named = [k for k in classes if k is not None]
    return closed_gates(system.checks, step.stages, named, store, pipeline.settings)


def run_everything(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    store: Store,
    pipeline: Pipeline,
    system: System,
    plan: Sequence[Step] | None = None,
) -> list[str]:
    """Run what is stale of a plan, by default the system's, step by step and class by class; the failures, a sentence each.

    A step with a failure is finished for the other classes, so that the user sees every report, and ends the run. A gate
    that a run before found closed holds the steps behind it back as well; what only measures goes on. Raises
    PipelineError for thresholds of a class that the images do not show.
    """
    closed: list[str] = []
    for step in plan or system.plan:
        if closed and step in system.plan:
            return closed
        failures = []
        if step.partitioned:
            pipeline.settings.thresholds.check_classes(classes_of(store))
            instance.add_dynamic_partitions(DEFECT_CLASS, list(classes_of(store)))  # to a history begun anew
        for partition in step.partitions(store):
            failures += run_stale(definitions, instance, store, pipeline, step.stages, partition, step.job)
        if failures:
            return failures
        closed += [str(gate) for gate in gates_behind(step, system, store, pipeline)]
    return []


def run_stale(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    store: Store,
    pipeline: Pipeline,
    stages: Sequence[Stage],
    partition: str | None,
    job: str,
) -> list[str]:
    """Run these stages of a job in this process unless none of them is stale; what went wrong, a sentence each."""
    if not any(one.stale(store, pipeline, partition) for one in stages):
        log.info("%s: nothing changed", label(job, partition))
        return []
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[dg.AssetKey(one.name) for one in stages],
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    return [f"{label(job, partition)}: {reason}" for reason in failure_reasons(result.all_events)]
