"""The instance beside a store: one GPU step at a time, and no slot kept by the dead."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from defect_pipeline.automation.gpu import GPU_POOL
from defect_pipeline.automation.instance import close_killed_runs, instance_home, open_instance

forked = multiprocessing.get_context("fork")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DAGSTER_HOME", "")  # put back what it was
    yield tmp_path


def run(root: Path, *, die: bool) -> bool:
    """One run of a job with a GPU step in the instance of a store."""

    @dg.op(pool=GPU_POOL)
    def train() -> None:
        if die:
            os.kill(os.getpid(), signal.SIGKILL)

    @dg.job
    def learn() -> None:
        train()

    with open_instance(root) as instance:
        return learn.execute_in_process(instance=instance, run_config=QUIET).success


def statuses(root: Path) -> list[dg.DagsterRunStatus]:
    """Of all runs, the last one first."""
    with open_instance(root) as instance:
        return [run.status for run in instance.get_runs()]


def killed(root: Path) -> int | None:
    process = forked.Process(target=run, args=(root,), kwargs={"die": True})
    process.start()
    process.join()
    return process.exitcode


def test_the_home_has_pools_and_monitoring_and_keeps_the_users_own(root: Path) -> None:
    home = instance_home(root)
    assert home == root / "dagster"
    with open_instance(root) as instance:
        assert os.environ["DAGSTER_HOME"] == str(home)
        pools = instance.get_concurrency_config().pool_config
        assert (pools.pool_granularity.value, pools.default_pool_limit) == ("op", 1)
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
        assert not instance.telemetry_enabled and not instance.nux_enabled
    own = "telemetry:\n  enabled: false\n"
    (home / "dagster.yaml").write_text(own)
    instance_home(root)
    assert (home / "dagster.yaml").read_text() == own


@pytest.mark.timeout(120)
def test_a_killed_run_neither_keeps_the_gpu_nor_runs_for_ever(root: Path) -> None:
    assert killed(root) == -signal.SIGKILL
    assert run(root, die=False)  # would wait for the slot without end
    assert statuses(root) == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


@pytest.mark.parametrize("back", [0, 3600], ids=["", "on a clock set back"])
def test_a_run_that_lives_is_left_alone(root: Path, back: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, seconds, boot = [], time.time, psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot - back)
    monkeypatch.setattr(time, "time", lambda: seconds() - back)
    monkeypatch.setattr(time, "time_ns", lambda: int((seconds() - back) * 1e9))

    @dg.op(pool=GPU_POOL)
    def train(context: dg.OpExecutionContext) -> None:
        close_killed_runs(context.instance)
        slots = context.instance.event_log_storage.get_concurrency_info(GPU_POOL)
        seen.append(([run.status for run in context.instance.get_runs()], slots.active_slot_count))

    @dg.job
    def learn() -> None:
        train()

    with open_instance(root) as instance:
        assert learn.execute_in_process(instance=instance, run_config=QUIET).success
    assert seen == [([dg.DagsterRunStatus.STARTED], 1)]
