"""Everything Dagster loads, on one screen."""

import dagster as dg

from defect_pipeline.automation.assets import asset_check_of, asset_of
from defect_pipeline.automation.gpu import executor
from defect_pipeline.automation.jobs import job_of
from defect_pipeline.automation.notifications import notify
from defect_pipeline.automation.regeneration import regenerate_of, regeneration_schedule_of, watch_folder_of
from defect_pipeline.systems import SYSTEMS
from defect_pipeline.workplace import Workplace


def definitions_for(place: Workplace, *, live: bool = False) -> dg.Definitions:
    """The stages of all systems, bound to a store and to what it was made for; ``live``, to what its note says whenever a
    run begins or a sensor looks, so that settings which `run` changed are seen without a reload."""
    pipeline = dg.ResourceDefinition(lambda _: Workplace.at(place.store_root).pipeline) if live else place.pipeline
    stages = dict.fromkeys(stage for system in SYSTEMS for stage in system.all_stages)
    checks = dict.fromkeys(check for system in SYSTEMS for check in system.checks)
    steps = {step.job: step for system in SYSTEMS for step in system.all_steps}
    jobs = [job_of(step) for step in steps.values()]
    chain = dg.Definitions(
        assets=[asset_of(stage, place.pipeline) for stage in stages],
        asset_checks=[asset_check_of(check) for check in checks],
        jobs=jobs,
        executor=executor(),
        resources={"store": place.store, "pipeline": pipeline},
    )
    regenerate = regenerate_of(chain)
    automation = dg.Definitions(
        jobs=[regenerate],
        sensors=[watch_folder_of(jobs), notify],
        schedules=[regeneration_schedule_of(regenerate)],
    )
    return dg.Definitions.merge(chain, automation)


defs = definitions_for(Workplace.from_environment(), live=True)
