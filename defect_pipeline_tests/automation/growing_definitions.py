"""What the processes of `test_growing` load: the pipeline, with short waits."""

from defect_pipeline.automation import sensor

sensor.INTERVAL, sensor.SETTLE = 1, 1  # before anything is imported that reads them

from defect_pipeline.definitions import defs  # noqa: E402

__all__ = ["defs"]
