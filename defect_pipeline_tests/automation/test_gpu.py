"""One place marks GPU steps and chooses where steps run."""

import sys
from types import ModuleType

import dagster as dg
import pytest

from defect_pipeline.automation import gpu
from defect_pipeline.errors import PipelineError


def test_a_step_carries_every_executors_tag() -> None:
    @dg.asset(pool=gpu.GPU_POOL, op_tags=gpu.gpu_tags(2))
    def trained() -> None: ...

    assert trained.op.pool == "gpu"
    tags = trained.op.tags  # as Dagster keeps them: JSON text where they are not text
    assert tags["dagster-ray/config"] == '{"num_gpus": 2}'
    assert tags["dagster-k8s/config"] == '{"container_config": {"resources": {"limits": {"nvidia.com/gpu": 2}}}}'
    assert tags["dagster-celery/queue"] == "gpu"


def test_steps_run_in_process_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gpu.EXECUTOR_VARIABLE, raising=False)
    assert gpu.executor() is dg.in_process_executor
    monkeypatch.setenv(gpu.EXECUTOR_VARIABLE, "multiprocess")
    assert gpu.executor() is dg.multiprocess_executor
    monkeypatch.setenv(gpu.EXECUTOR_VARIABLE, "slurm")
    with pytest.raises(PipelineError, match="'slurm'.*ray"):
        gpu.executor()


def test_ray_is_given_an_address_and_no_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    @dg.executor(name="ray", config_schema={"ray": dg.Permissive()})
    def ray_executor(context: dg.InitExecutorContext) -> dg.Executor:
        given.update(context.executor_config["ray"])
        return dg.in_process_executor.executor_creation_fn(context)  # type: ignore[misc]

    monkeypatch.setenv(gpu.EXECUTOR_VARIABLE, "ray")
    monkeypatch.setitem(sys.modules, "dagster_ray", None)  # not installed
    with pytest.raises(PipelineError, match="install dagster-ray"):
        gpu.executor()
    installed = ModuleType("dagster_ray")
    installed.ray_executor = ray_executor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dagster_ray", installed)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("DEFECT_PIPELINE_STORE", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", "/somewhere")
    chosen = gpu.executor()
    config = chosen.apply_config_mapping({"config": {}}).value
    assert config["config"] == {"ray": {"address": "http://127.0.0.1:8265", "env_vars": ["PATH", "DAGSTER_HOME"]}}
