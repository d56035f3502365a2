"""The generator: how it learns a component, a condition, a class, and how it paints; no dagster."""

from typing import TYPE_CHECKING

from defect_pipeline.lazy import submodules

if TYPE_CHECKING:
    from defect_pipeline.generator import canvases, learning, loading, painting, prompts, watching  # noqa: F401
else:
    __getattr__ = submodules(__name__)
