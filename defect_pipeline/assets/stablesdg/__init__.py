"""StableSDG, the second system (paper B), beside the first; importing it registers its stages."""

from defect_pipeline.assets.stablesdg.adapt import lora_weights, token_embedding

from defect_pipeline.assets.stablesdg.tune import strength_and_guidance  # isort: skip
from defect_pipeline.assets.stablesdg.generate import stablesdg_images  # isort: skip
from defect_pipeline.assets.stablesdg.reports import stablesdg_copy_report, stablesdg_fid_report  # isort: skip
from defect_pipeline.assets.stablesdg.recognise import recognition_report, recognizer  # isort: skip

system_b = [
    token_embedding,
    lora_weights,
    strength_and_guidance,
    stablesdg_images,
    stablesdg_copy_report,
    stablesdg_fid_report,
    recognizer,
    recognition_report,
]
