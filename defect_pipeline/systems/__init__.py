"""The systems: ways to learn a component and to paint its defects. This list is all that knows how many there are."""

from defect_pipeline.errors import PipelineError
from defect_pipeline.system import System
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.systems.stablesdg import STABLESDG
from defect_pipeline.systems.union import UNION

SYSTEMS: tuple[System, ...] = (SADF, STABLESDG, UNION)


def system_named(name: str) -> System:
    """The system of that name. Raises PipelineError listing the names."""
    for system in SYSTEMS:
        if system.name == name:
            return system
    raise PipelineError(f"There is no system {name!r}; use one of {', '.join(system.name for system in SYSTEMS)}.")
