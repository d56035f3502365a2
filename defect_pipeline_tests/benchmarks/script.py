"""An unchanged diffusers script, as its own program.

The scripts know no other classes than diffusers' own, and the embedded autoencoder and U-Net are of our classes, so for that
backbone these stand here under diffusers' names. `python -m defect_pipeline_tests.benchmarks.script SCRIPT [ARGUMENT ...]`
"""

import runpy
import sys
from pathlib import Path

import diffusers

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.unet import SkipUNet
from defect_pipeline_tests.benchmarks.case import Case

if __name__ == "__main__":
    if Case(Path(sys.argv[sys.argv.index("--pretrained_model_name_or_path") + 1])).embedded:
        diffusers.AutoencoderKL, diffusers.UNet2DConditionModel = LinearPatchAutoencoder, SkipUNet
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
