"""The Dagster instance beside a store: its history, pools and run monitoring."""

import os
import sqlite3
from pathlib import Path

import dagster as dg
from dagster._core.storage.runs import SqliteRunStorage
from sqlalchemy.exc import DatabaseError

from defect_pipeline.errors import PipelineError
from defect_pipeline.processes import has_ended
from defect_pipeline.store import atomic_write


def instance_home(store_root: Path) -> Path:
    """DAGSTER_HOME for a store, made ready; a dagster.yaml that is there already is the user's and stays."""
    home = store_root.resolve() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        atomic_write(home / "dagster.yaml", Path(__file__).with_name("dagster.yaml").read_bytes())
    return home


def open_instance(store_root: Path) -> dg.DagsterInstance:
    """The instance of a store, rid of killed runs; the same history whether `run` or the UI asks.

    Raises PipelineError where the history is damaged.
    """
    home = instance_home(store_root)
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        instance = dg.DagsterInstance.get()
        if isinstance(instance.run_storage, SqliteRunStorage):  # one machine's: its runs are processes here
            close_killed_runs(instance)
    except DatabaseError as error:
        if type(error.orig) is not sqlite3.DatabaseError:  # a kind of it: locked, or no room on the disk
            raise
        raise PipelineError(
            f"The history in {home} is damaged ({error.orig}): move that folder away; what was made stays in the store."
        ) from error
    return instance


def close_killed_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process is gone, and give back the pool slots of runs that are over.

    Nobody else does: the run monitor cannot ask after a local process, and frees slots only while the daemon runs. The
    next step on the GPU would wait for ever for the slot of a killed one.
    """
    in_progress = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=in_progress)):
        start = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_START, limit=1).records
        pid = start[0].event_log_entry.get_dagster_event().pid if start else None
        if pid is not None and has_ended(pid, start[0].timestamp):
            instance.report_run_failed(run, f"Process {pid} of this run was killed.")
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
