"""Backbone, one loss, one training loop, one sampler, adapters; no dagster."""

from typing import TYPE_CHECKING

from defect_pipeline.lazy import submodules

if TYPE_CHECKING:
    from defect_pipeline.diffusion import adapters, backbone, lora, sampling, token, training, unet  # noqa: F401
else:
    __getattr__ = submodules(__name__)
