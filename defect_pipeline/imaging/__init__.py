"""Pixels and annotations; no torch, no dagster."""

from typing import TYPE_CHECKING

from defect_pipeline.lazy import submodules

if TYPE_CHECKING:
    from defect_pipeline.imaging import augment, contrast, descriptions, groups, sample  # noqa: F401
else:
    __getattr__ = submodules(__name__)
