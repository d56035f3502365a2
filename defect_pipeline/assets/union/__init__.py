"""Both systems in one: StableSDG's adapted backbone, steered by the first system's drivers (paper B's future work).

The chain is the first system's, with another generator; importing it registers its stages.
"""

from defect_pipeline.assets.stage import stage_like
from defect_pipeline.assets.union.canvases import union_canvases, union_drivers
from defect_pipeline.assets.union.places import INSTEAD

from defect_pipeline.assets.union.learn import union_weights  # isort: skip
from defect_pipeline.assets.union.generate import union_faithfulness_report, union_images  # isort: skip

JUDGED = (
    "copy_report", "sadf_accepted", "fid_report", "class_report", "sadf_coco", "segmentor", "segmentation_report",
)  # fmt: skip
union = [
    union_canvases,
    union_drivers,
    union_weights,
    union_images,
    union_faithfulness_report,
    *(stage_like(name, INSTEAD, group="union") for name in JUDGED),
]
