"""Scheduled and triggered regeneration: both walk the plan and ask only for what is stale.

A tick asks for the stale runs of the first step that has any, and the following ticks, once these are done, for the
next step's, unless a gate is closed. A run key names what a run would make and of when the thing is that it replaces: a
failed run is not repeated until something changes, and what was undone is made again.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from defect_pipeline.assets.inspection import folder_digest
from defect_pipeline.assets.stage import Stage
from defect_pipeline.automation.jobs import gates_behind, run_everything
from defect_pipeline.automation.partitions import defect_classes
from defect_pipeline.automation.sensor import INTERVAL, Snapshot, reason_to_wait
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.ingest import scan
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.store import Store
from defect_pipeline.systems import system_named

IDLE = "Nothing is stale, its runs are under way, or a gate is closed."
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dataclass(frozen=True)
class RunState:
    """A run of the plan: `wanted` names what it would make, None when nothing is stale."""

    job: str
    partition: str | None
    wanted: str | None
    under_way: bool


def due(steps: Iterable[Sequence[RunState]]) -> list[RunState]:
    """The runs to start now: of the first step where anything is stale or under way, the stale ones not yet started."""
    for runs in steps:
        if any(run.wanted or run.under_way for run in runs):
            return [run for run in runs if run.wanted and not run.under_way]
    return []


def run_states(instance: dg.DagsterInstance, store: Store, pipeline: Pipeline) -> Iterator[list[RunState]]:
    """The state of every run of the plan, step by step, as far as no gate is closed; later steps are looked at only when
    asked for."""
    system = system_named(pipeline.system)
    for step in system.plan:
        runs = []
        for partition in step.partitions(store):
            tags = {"dagster/partition": partition} if partition else {}
            filters = dg.RunsFilter(job_name=step.job, statuses=UNDER_WAY, tags=tags)
            stale = next((one for one in step.stages if one.stale(store, pipeline, partition)), None)
            wanted = None
            if stale is not None:
                wanted = f"{step.job}/{partition or 'all'}/{_key(stale, partition, store, pipeline)}"
            runs.append(RunState(step.job, partition, wanted, instance.get_runs_count(filters) > 0))
        yield runs
        if gates_behind(step, system, store, pipeline):
            return


def _key(stage: Stage, partition: str | None, store: Store, pipeline: Pipeline) -> str:
    try:
        wanted = stage.digest(store, pipeline, partition)
    except PipelineError:  # its parent is remade in the same run
        wanted = folder_digest(pipeline)
    return f"{stage.name}:{wanted}:{store.since(stage.name, partition)}"


def watch_folder_of(jobs: Sequence[Any]) -> dg.SensorDefinition:
    """The sensor that starts what new, changed and removed images make stale."""

    @dg.sensor(
        jobs=jobs, minimum_interval_seconds=INTERVAL, description="New, changed and removed images in the data folder."
    )
    def watch_folder(
        context: dg.SensorEvaluationContext, store: Store, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.SensorResult:
        """Waits while files are being copied; then asks for the next stale runs."""
        scanned = scan(pipeline.root)
        seen = Snapshot.of(scanned).cursor
        if reason := reason_to_wait(Snapshot.from_cursor(context.cursor), scanned, time.time_ns()):
            return dg.SensorResult(skip_reason=reason, cursor=seen)
        requests = [
            dg.RunRequest(job_name=run.job, partition_key=run.partition, run_key=run.wanted)
            for run in due(run_states(context.instance, store, pipeline))
        ]
        if not requests:
            return dg.SensorResult(skip_reason=IDLE, cursor=seen)
        classes = [k for run in requests if (k := run.partition_key)]
        known = defect_classes.build_add_request(classes)  # a history begun anew knows none
        return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=[known], cursor=seen)

    return watch_folder


def regenerate_of(definitions: dg.Definitions) -> dg.JobDefinition:
    """The job that does what `defect-pipeline run` does, from the UI or on a clock, with the jobs of ``definitions``."""

    @dg.op(description="Every stale run of the plan, one after the other, each in the history under its own job.")
    def regenerate_stale(context: dg.OpExecutionContext, store: Store, pipeline: dg.ResourceParam[Pipeline]) -> None:
        system = system_named(pipeline.system)
        if failures := run_everything(definitions, context.instance, store, pipeline, system):
            raise dg.Failure("; ".join(failures), allow_retries=False)

    @dg.job(executor_def=dg.in_process_executor, description="The whole plan in one go: what is stale of it.")
    def regenerate() -> None:
        regenerate_stale()

    return regenerate


def regeneration_schedule_of(regenerate: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The sensor's question on a clock, for a folder that nobody watches."""

    @dg.schedule(cron_schedule="0 2 * * *", target=regenerate, description="What is stale, every night at two.")
    def regeneration_schedule(
        context: dg.ScheduleEvaluationContext, store: Store, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.RunRequest | dg.SkipReason:
        if due(run_states(context.instance, store, pipeline)):
            return dg.RunRequest()
        return dg.SkipReason(IDLE)

    return regeneration_schedule
