"""An unchanged diffusers script, as its own program, on the embedded backbone.

The scripts know no other classes than diffusers' own, and the embedded autoencoder and U-Net are of our classes, so these
stand here under diffusers' names. `python -m defect_pipeline_tests.benchmarks.script SCRIPT [ARGUMENT ...]`
"""

import runpy
import sys

import diffusers

from defect_pipeline.diffusion.autoencoder import LinearPatchAutoencoder
from defect_pipeline.diffusion.unet import SkipUNet

if __name__ == "__main__":
    diffusers.AutoencoderKL, diffusers.UNet2DConditionModel = LinearPatchAutoencoder, SkipUNet
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
