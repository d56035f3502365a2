"""Everything Dagster loads, on one screen."""

import dagster as dg

from defect_pipeline.assets import chain, quality, system_b, tables, union
from defect_pipeline.automation.checks import asset_checks
from defect_pipeline.automation.gpu import executor
from defect_pipeline.automation.jobs import jobs
from defect_pipeline.automation.notifications import notify
from defect_pipeline.automation.regeneration import regenerate, regeneration_schedule, watch_folder
from defect_pipeline.workplace import Workplace


def definitions_for(place: Workplace) -> dg.Definitions:
    """The chain, bound to a store and to what it was made for."""
    return dg.Definitions(
        assets=[*chain, *quality, *system_b, *union, *tables],
        asset_checks=asset_checks,
        jobs=[*jobs, regenerate],
        sensors=[watch_folder, notify],
        schedules=[regeneration_schedule],
        executor=executor(),
        resources={"store": place.store, "pipeline": place.pipeline},
    )


defs = definitions_for(Workplace.from_environment())
