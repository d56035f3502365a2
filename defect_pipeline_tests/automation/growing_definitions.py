"""What the processes of `test_growing` load: the pipeline with a tiny profile, thresholds from a file, and short waits."""

import json
import os
from dataclasses import replace
from pathlib import Path

from defect_pipeline import profiles
from defect_pipeline.automation import sensor

sensor.INTERVAL, sensor.SETTLE = 1, 1  # before anything is imported that reads them

from defect_pipeline.definitions import defs  # noqa: E402
from defect_pipeline_tests.support import tiny  # noqa: E402

__all__ = ["defs"]

PROFILE = "growing"
BACKBONE, THRESHOLDS = "GROWING_BACKBONE", "GROWING_THRESHOLDS"


class _Live(dict):
    """Profiles whose thresholds of each class are those that the file holds by now."""

    def __getitem__(self, name: str) -> profiles.Profile:
        profile = super().__getitem__(name)
        per_class = json.loads(Path(os.environ[THRESHOLDS]).read_text())
        return replace(profile, thresholds=replace(profile.thresholds, per_class=per_class))


profiles.PROFILES = _Live(
    {
        PROFILE: replace(
            tiny(PROFILE, Path(os.environ[BACKBONE])),
            stablesdg=profiles.StableSDG(token_steps=1, steps=1, batch=2, images=3, solver_steps=2, tuning=None),
            recognition=profiles.Recognition(models=("squeezenet",), steps=1, batch=4),
        )
    }
)
