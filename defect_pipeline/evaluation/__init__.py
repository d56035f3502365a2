"""What synthetic images are worth: distances, copies, faithfulness, variety, a segmentor's figures; no dagster."""

from typing import TYPE_CHECKING

from defect_pipeline.lazy import submodules

if TYPE_CHECKING:
    from defect_pipeline.evaluation import features, shapes  # noqa: F401
else:
    __getattr__ = submodules(__name__)
