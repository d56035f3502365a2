"""Scheduled and triggered regeneration: both walk the plan and ask only for what is stale.

A tick asks for the stale runs of the first step that has any, and the following ticks, once these are done, for the
next step's, unless a gate is closed. A run key names what a run would make and of when the thing is that it replaces: a
failed run is not repeated until something changes, and what was undone is made again.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from defect_pipeline.assets.inspection import folder_digest
from defect_pipeline.assets.stage import STAGES, Pipeline
from defect_pipeline.automation.checks import closed_gates
from defect_pipeline.automation.jobs import PLANS, classes_of, jobs, run_everything, stale
from defect_pipeline.automation.partitions import defect_classes
from defect_pipeline.automation.sensor import INTERVAL, Snapshot, reason_to_wait
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.ingest import scan
from defect_pipeline.store import Store

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
    for step in PLANS[pipeline.system]:
        runs = []
        for partition in classes_of(store) if step.partitioned else (None,):
            tags = {"dagster/partition": partition} if partition else {}
            filters = dg.RunsFilter(job_name=step.job, statuses=UNDER_WAY, tags=tags)
            wanted = next((a for a in step.assets if stale(a, partition, store, pipeline)), None)
            key = (
                None
                if wanted is None
                else f"{step.job}/{partition or 'all'}/{_key(wanted, partition, store, pipeline)}"
            )
            runs.append(RunState(step.job, partition, key, instance.get_runs_count(filters) > 0))
        yield runs
        if closed_gates(step, store, pipeline):
            return


def _key(asset: str, partition: str | None, store: Store, pipeline: Pipeline) -> str:
    try:
        wanted = STAGES[asset].digest(store, pipeline, partition)
    except PipelineError:  # its parent is remade in the same run
        wanted = folder_digest(pipeline)
    return f"{asset}:{wanted}:{store.since(asset, partition)}"


@dg.sensor(
    jobs=jobs, minimum_interval_seconds=INTERVAL, description="New, changed and removed images in the data folder."
)
def watch_folder(context: dg.SensorEvaluationContext, store: Store, pipeline: Pipeline) -> dg.SensorResult:
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


@dg.op(description="Every stale run of the plan, one after the other, each in the history under its own job.")
def regenerate_stale(context: dg.OpExecutionContext, store: Store, pipeline: Pipeline) -> None:
    """What `defect-pipeline run` does, from the UI or on a clock."""
    from defect_pipeline.definitions import defs  # which loads this job

    if failures := run_everything(defs, context.instance, store, pipeline):
        raise dg.Failure("; ".join(failures), allow_retries=False)


@dg.job(executor_def=dg.in_process_executor, description="The whole plan in one go: what is stale of it.")
def regenerate() -> None:
    regenerate_stale()


@dg.schedule(cron_schedule="0 2 * * *", target=regenerate, description="What is stale, every night at two.")
def regeneration_schedule(
    context: dg.ScheduleEvaluationContext, store: Store, pipeline: Pipeline
) -> dg.RunRequest | dg.SkipReason:
    """The sensor's question on a clock, for a folder that nobody watches."""
    if due(run_states(context.instance, store, pipeline)):
        return dg.RunRequest()
    return dg.SkipReason(IDLE)
