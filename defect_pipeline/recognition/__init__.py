"""The segmentor and the classifiers; no dagster."""

import os
from typing import TYPE_CHECKING

from defect_pipeline.lazy import submodules

if TYPE_CHECKING:
    from defect_pipeline.recognition import classifier, learning, segmentor  # noqa: F401
else:
    __getattr__ = submodules(__name__)

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the package index for a newer version
