"""The chain, in the order data flows; importing a module registers its stages."""

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.pool import defect_free_pool

from defect_pipeline.assets.masks import mask_bank  # isort: skip
from defect_pipeline.assets.drivers import topological_drivers  # isort: skip
from defect_pipeline.assets.concept import concept_weights  # isort: skip
from defect_pipeline.assets.hypernetwork import hypernetwork_weights  # isort: skip
from defect_pipeline.assets.synthesis import sadf_images  # isort: skip
from defect_pipeline.assets.faithfulness import faithfulness_report  # isort: skip
from defect_pipeline.assets.copying import copy_report  # isort: skip
from defect_pipeline.assets.accepted import sadf_accepted  # isort: skip
from defect_pipeline.assets.fid import fid_report  # isort: skip
from defect_pipeline.assets.classes import class_report  # isort: skip
from defect_pipeline.assets.coco import sadf_coco  # isort: skip
from defect_pipeline.assets.segmentation import segmentation_report, segmentor  # isort: skip
from defect_pipeline.assets.quality import agreement_report, autoencoder_report, kid_ladder, variety_report  # isort: skip
from defect_pipeline.assets.shapes import shape_report  # isort: skip
from defect_pipeline.assets.order import order_report  # isort: skip
from defect_pipeline.assets.stablesdg import system_b  # isort: skip
from defect_pipeline.assets.union import union  # isort: skip
from defect_pipeline.assets.experiments import tables  # isort: skip

chain = [
    inspection_images,
    defect_free_pool,
    mask_bank,
    topological_drivers,
    concept_weights,
    hypernetwork_weights,
    sadf_images,
    faithfulness_report,
    copy_report,
    sadf_accepted,
    fid_report,
    class_report,
    sadf_coco,
    segmentor,
    segmentation_report,
]
quality = [kid_ladder, agreement_report, variety_report, shape_report, autoencoder_report, order_report]

__all__ = ["chain", "quality", "system_b", "tables", "union"]
