"""Everything Dagster loads, on one screen."""

import dagster as dg

from defect_pipeline.assets import chain
from defect_pipeline.automation.checks import asset_checks
from defect_pipeline.automation.jobs import jobs
from defect_pipeline.automation.regeneration import regenerate, regeneration_schedule, watch_folder
from defect_pipeline.workplace import Workplace

place = Workplace.from_environment()

defs = dg.Definitions(
    assets=chain,
    asset_checks=asset_checks,
    jobs=[*jobs, regenerate],
    sensors=[watch_folder],
    schedules=[regeneration_schedule],
    resources={"store": place.store, "pipeline": place.pipeline},
)
