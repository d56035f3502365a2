"""What the method is held against, on the same backgrounds and masks: inpainting (paper A §5.3) and copy-paste."""

from collections.abc import Sequence

import numpy as np

from defect_pipeline import diffusion
from defect_pipeline.assets.concept import load_concept
from defect_pipeline.assets.drivers import TrainingCrops
from defect_pipeline.assets.hypernetwork import condition_prompt
from defect_pipeline.assets.stage import Build
from defect_pipeline.assets.synthesis import MARGIN, Canvases
from defect_pipeline.imaging.copy_paste import paste_defect
from defect_pipeline.imaging.masks import dilated


def inpainted(build: Build, canvases: Canvases, seeds: Sequence[int]) -> np.ndarray:
    """Images (n, S, S, 3) uint8: the concept alone, told of the defect by its prompt, fills the masks from pure noise;
    everywhere else the background stays."""
    backbone, settings = load_concept(build), build.settings.synthesis
    masks = np.stack([dilated(mask, MARGIN) for mask in canvases.masks])
    latents = diffusion.sampling.sample_images(
        backbone, [condition_prompt(build, canvases.defect_class)] * len(seeds), seeds, masks.shape[1],
        steps=settings.steps, guidance=settings.guidance, batch=settings.batch,
        sources=backbone.encode_pixels(canvases.backgrounds), strength=backbone.at_latent_size(masks),
    )  # fmt: skip
    return np.where(masks[..., None], backbone.decode(latents).numpy(), canvases.backgrounds)


def copy_pasted(
    crops: TrainingCrops, backgrounds: Sequence[np.ndarray], seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Defects of train crops, in an order drawn from ``seed``, blended into the backgrounds where they stood: images
    (S, S, 3) uint8 and masks (S, S) bool."""
    order = np.random.default_rng(seed).permutation(len(crops.classes))
    chosen = [order[k % len(order)] for k in range(len(backgrounds))]
    masks = [crops.masks[k] for k in chosen]
    pasted = [
        paste_defect(background, crops.images[k], mask)
        for background, k, mask in zip(backgrounds, chosen, masks, strict=True)
    ]
    return pasted, masks
