"""Generators that know nothing beforehand, to hold the second system against (paper B, Table V); no dagster."""

from typing import TYPE_CHECKING

from defect_pipeline.lazy import submodules

if TYPE_CHECKING:
    from defect_pipeline.baselines import dcgan, ddim  # noqa: F401
else:
    __getattr__ = submodules(__name__)
