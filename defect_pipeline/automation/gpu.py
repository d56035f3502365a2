"""What marks a step as a GPU step, and where steps run, in one place."""

import os
from typing import Any

import dagster as dg

from defect_pipeline.errors import PipelineError

GPU_POOL = "gpu"
QUEUE = "gpu"
EXECUTOR_VARIABLE = "DEFECT_PIPELINE_EXECUTOR"
RAY_DASHBOARD = "http://127.0.0.1:8265"
HANDED_ON = ("PATH", "DAGSTER_HOME", "DEFECT_PIPELINE_STORE")  # what a step on another node must know


def gpu_tags(gpus: int = 1) -> dict[str, Any]:
    """Op tags of a step that needs ``gpus`` GPUs: Ray's resources, Kubernetes' limits, Celery's queue.

    Each executor reads its own tag and ignores the others'. On the op, not on the job, where backfills lose them.
    """
    return {
        "dagster-ray/config": {"num_gpus": gpus},
        "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": gpus}}}},
        "dagster-celery/queue": QUEUE,
    }


def executor() -> dg.ExecutorDefinition:
    """The executor of runs that Dagster launches, by DEFECT_PIPELINE_EXECUTOR: in_process, multiprocess or ray.

    In process by default: a spawned step pays seconds of imports, much of a small step. Ray's cluster is the
    one of RAY_ADDRESS, by default this machine's. Raises PipelineError for another name, or without dagster-ray.
    """
    name = os.environ.get(EXECUTOR_VARIABLE, "in_process")
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    if name == "ray":
        return _ray_executor()
    raise PipelineError(f"{EXECUTOR_VARIABLE} is {name!r}; it can be in_process, multiprocess or ray.")


def _ray_executor() -> dg.ExecutorDefinition:
    """No resources here: they would override those of every step's tag."""
    try:
        from dagster_ray import ray_executor
    except ImportError as error:
        raise PipelineError(f"{EXECUTOR_VARIABLE} is ray; install dagster-ray, or unset it.") from error
    address = os.environ.get("RAY_ADDRESS", RAY_DASHBOARD)
    known = [name for name in HANDED_ON if name in os.environ]
    return ray_executor.configured({"ray": {"address": address, "env_vars": known}})
