"""What somebody should hear of: runs that failed, gates that closed or opened, new synthetic data.

A line in the log each; and, where DEFECT_PIPELINE_WEBHOOK holds a URL, in one POST together. Only what differs from the tick before
is news, so it does not matter who made a run, the sensor, the command line or a hand in the UI.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import dagster as dg

from defect_pipeline.assets.stage import INSPECTION, content, label
from defect_pipeline.automation.jobs import failure_reasons, gates_behind
from defect_pipeline.automation.sensor import INTERVAL
from defect_pipeline.automation.webhook import News, post
from defect_pipeline.errors import PipelineError
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.store import Store
from defect_pipeline.system import System, classes_of
from defect_pipeline.systems import system_named

WEBHOOK_VARIABLE = "DEFECT_PIPELINE_WEBHOOK"
ATTEMPTS = 10  # ticks after which news that the webhook does not take are given up
FAILURES = 20  # told of at a tick; more wait for the next


@dataclass(frozen=True)
class StoreState:
    """A store at a moment: its closed gates with their problems, and the digest of each set that may be used."""

    closed: dict[str, str]
    ready: dict[str, str]

    @classmethod
    def of(cls, store: Store, pipeline: Pipeline) -> "StoreState":
        """What there is by now; nothing while there are no images."""
        if not store.partitions(INSPECTION):
            return cls({}, {})
        system = system_named(pipeline.system)
        gates = [gate for step in system.plan for gate in gates_behind(step, system, store, pipeline)]
        closed = {gate.name: str(gate) for gate in gates}
        return cls(closed, _ready(system, store, {gate.partition for gate in gates}))


def _ready(system: System, store: Store, closed: set[str | None]) -> dict[str, str]:
    """The joined set, which is made behind open gates only; without one, the images that each class's last report has
    judged, of classes whose gates are open."""
    if system.masked is not None:
        joined = system.masked.joined.name
        with suppress(PipelineError):
            return {joined: content(store.current(joined))}
        return {}
    judged, images = system.judged.name, system.images.name
    classes = set(classes_of(store)) & set(store.partitions(judged)) - closed
    return {label(images, k): store.current(judged, k).parents[images] for k in sorted(classes)}


@dataclass(frozen=True)
class Memory:
    """Between two ticks: what was seen, how far the failed runs are told, and the news that wait for the webhook."""

    seen: StoreState
    failures: str  # a cursor of Dagster's event log
    waiting: tuple[News, ...] = ()
    attempts: int = 0

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Memory | None":
        """None at the first tick, and for a cursor of another version of the program."""
        try:
            found = json.loads(cursor or "")
            waiting = tuple(News(*one) for one in found["waiting"])
            return cls(StoreState(**found["seen"]), found["failures"], waiting, found["attempts"])
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def cursor(self) -> str:
        return json.dumps(asdict(self))


def news_between(before: StoreState, now: StoreState) -> list[News]:
    """What of two looks differs: a gate that is closed now, one that no longer is, data that were not there."""
    closed = [
        News("gate closed", k, f"Gate closed: {said}") for k, said in now.closed.items() if k not in before.closed
    ]
    opened = [News("gate opened", k, f"Gate no longer closed: {k}") for k in before.closed if k not in now.closed]
    ready = [
        News("data ready", k, f"New synthetic data: {k} {digest[:16]}")
        for k, digest in now.ready.items()
        if before.ready.get(k) != digest
    ]
    return closed + opened + ready


def failed_runs(instance: dg.DagsterInstance, cursor: str) -> tuple[list[News], str]:
    """The runs that failed behind a cursor of the event log, with their reasons, and the cursor behind these."""
    found = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, FAILURES, cursor, ascending=True)
    return [_failed(instance, record.run_id) for record in found.records], found.cursor


def _failed(instance: dg.DagsterInstance, run_id: str) -> News:
    run = instance.get_run_by_id(run_id)
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    subject = "a run" if run is None else label(run.job_name, run.tags.get("dagster/partition"))
    reasons = "; ".join(failure_reasons(events)) or "see the run"
    return News("run failed", subject, f"Run {run_id[:8]} of {subject} failed: {reasons}")


def delivered(memory: Memory, url: str, say: Callable[[str], None]) -> Memory:
    """Hand the waiting news to the webhook and forget them, once they are taken or have been refused too often."""
    done, attempts = replace(memory, waiting=(), attempts=0), memory.attempts + 1
    problem = post(url, memory.waiting) if url and memory.waiting else ""
    if problem and attempts < ATTEMPTS:
        say(f"The webhook did not take the news ({problem}); they wait for the next tick.")
        return replace(memory, attempts=attempts)
    if problem:
        say(f"The webhook did not take the news {ATTEMPTS} times ({problem}); {len(memory.waiting)} are given up.")
    return done


@dg.sensor(
    minimum_interval_seconds=INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Failed runs, closed and opened gates, new data: to the log, and to the webhook of {WEBHOOK_VARIABLE}.",
)
def notify(context: dg.SensorEvaluationContext, store: Store, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Tells what is new since the tick before; the first one takes stock only."""
    now, memory = StoreState.of(store, pipeline), Memory.from_cursor(context.cursor)
    if memory is None:
        last = context.instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, 1).cursor
        return dg.SensorResult(skip_reason="First look at the store.", cursor=Memory(now, last).cursor)
    failures, cursor = failed_runs(context.instance, memory.failures)
    fresh = [*failures, *news_between(memory.seen, now)]
    for one in fresh:
        context.log.info(one.text)
    memory = Memory(now, cursor, (*memory.waiting, *fresh), memory.attempts)
    memory = delivered(memory, os.environ.get(WEBHOOK_VARIABLE, ""), context.log.warning)
    return dg.SensorResult(skip_reason="; ".join(one.text for one in fresh) or "No news.", cursor=memory.cursor)
