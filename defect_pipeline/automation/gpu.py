"""What marks a step as a GPU step, in one place: the pool, and a tag for each executor that may run it."""

from typing import Any

GPU_POOL = "gpu"
QUEUE = "gpu"


def gpu_tags(gpus: int = 1) -> dict[str, Any]:
    """Op tags of a step that needs ``gpus`` GPUs: Ray's resources, Kubernetes' limits, Celery's queue.

    Each executor reads its own tag and ignores the others'. On the op, not on the job, where backfills lose them.
    """
    return {
        "dagster-ray/config": {"num_gpus": gpus},
        "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": gpus}}}},
        "dagster-celery/queue": QUEUE,
    }
