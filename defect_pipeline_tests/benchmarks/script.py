"""An unchanged diffusers script, as its own program.

The scripts know no other classes than diffusers' own, so where a backbone's autoencoder or U-Net is of ours, as the embedded
ones are, that stands here under diffusers' name. `python -m defect_pipeline_tests.benchmarks.script SCRIPT [ARGUMENT ...]`
"""

import runpy
import sys
from pathlib import Path

import diffusers

from defect_pipeline_tests.benchmarks.case import OURS, Case

if __name__ == "__main__":
    case = Case(Path(sys.argv[sys.argv.index("--pretrained_model_name_or_path") + 1]))
    for part, name in {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel"}.items():
        if case.ours(part):
            setattr(diffusers, name, OURS[part])
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
