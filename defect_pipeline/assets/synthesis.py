"""The SADF set of a class: shuffled annotations on defect-free images (paper A §3.4)."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel
from torch.nn import functional as F

from defect_pipeline.assets.concept import concept_prompt, load_concept
from defect_pipeline.assets.drivers import read_synthesis_drivers
from defect_pipeline.assets.hypernetwork import condition_prompt, steering
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.diffusion.backbone import Backbone
from defect_pipeline.diffusion.sampling import sample_images
from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.drivers import class_colours, without_defects
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay, save_png
from defect_pipeline.store import atomic_write

IMAGES = "images"
MARGIN = 2  # px: a defect may reach a little past its outline


@stage(
    parents=(
        "inspection_images",
        "defect_free_pool",
        "mask_bank",
        "topological_drivers",
        "concept_weights",
        "hypernetwork_weights",
    ),
    settings=lambda pipeline: (pipeline.settings.synthesis, pipeline.settings.precision),
    group="synthesis",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def sadf_images(build: Build) -> None:
    """Synthetic images of one class, their masks being the ones they were asked for; resumes where it was killed."""
    settings = build.settings.synthesis
    bank = read_bank(build.parent("mask_bank").path)
    names = [(k, f"{k:04d}_{j:02d}.png") for k in range(len(bank)) for j in range(settings.images_per_driver)]
    work = build.workdir / IMAGES
    work.mkdir(exist_ok=True)
    todo = [(k, name) for k, name in names if not (work / name).exists()]
    if todo:
        _paint(build, todo)
    shutil.copytree(work, build.path / IMAGES, ignore=shutil.ignore_patterns("*.partial"))

    size = build.settings.drivers.size
    records = [
        {"file_name": f"{IMAGES}/{name}", "width": size, "height": size, "synthetic": True, "driver": k}
        for k, name in names
    ]
    masks = [bank[k].masks for k, _ in names]
    (build.path / "annotations.json").write_text(json.dumps(coco_dict(records, masks, build.classes())))
    build.metadata |= {"images": len(names), "drivers": len(bank), "painted now": len(todo)}
    _show(build, [name for _, name in names], masks)


def _paint(build: Build, todo: list[tuple[int, str]]) -> None:
    """Sample the missing images and keep each batch as soon as it is there."""
    backbone, hypernetwork = load_generator(build)
    work = build.workdir / IMAGES

    def keep(start: int, latents: torch.Tensor) -> None:
        for (_, name), image in zip(todo[start:], backbone.decode(latents).numpy(), strict=False):
            atomic_write(work / name, partial(save_png, image=image))  # half an image must not count as painted
        build.progress(start + len(latents), len(todo))

    seeds = [image_seed(build.pipeline.seed, build.defect_class, name) for _, name in todo]
    canvases = read_canvases(build, build.defect_class, [k for k, _ in todo])
    paint(build, backbone, hypernetwork, canvases, seeds, on_batch=keep)


def load_generator(build: Build) -> tuple[Backbone, ControlNetModel]:
    """The concept and its hypernetwork."""
    backbone = load_concept(build)
    return backbone, backbone.load_hypernetwork(build.parent("hypernetwork_weights").path / "controlnet")


@dataclass(frozen=True)
class Canvases:
    """What n images are painted from: their class, drivers and backgrounds (n, S, S, 3) uint8, masks (n, S, S) bool."""

    defect_class: str
    drivers: np.ndarray
    backgrounds: np.ndarray
    masks: np.ndarray


def read_canvases(build: Build, defect_class: str, chosen: Sequence[int] | None = None) -> Canvases:
    """Those of a class's mask bank, or of its chosen entries, which may repeat."""
    pool, bank = build.parent("defect_free_pool").path, read_bank(build.parent("mask_bank", defect_class).path)
    chosen = range(len(bank)) if chosen is None else chosen
    return Canvases(
        defect_class,
        read_synthesis_drivers(build.parent("topological_drivers", defect_class).path)[list(chosen)],
        np.stack([read_image(pool / bank[k].background) for k in chosen]),
        np.stack([np.any([mask for _, mask in bank[k].masks], axis=0) for k in chosen]),
    )


def paint(
    build: Build,
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    canvases: Canvases,
    seeds: Sequence[int],
    *,
    from_noise: bool = False,
    defects: bool = True,
    on_batch: Callable[[int, torch.Tensor], None] = lambda *_: None,
) -> torch.Tensor:
    """Latents of one image for each canvas and seed.

    What the masks cover comes from noise, and so does everything at a strength of 1, or ``from_noise``, as in the
    paper; else what lies around comes from the background, see `strength_map`. Without ``defects`` this paints the
    twins: the same in everything but the masks in the drivers.
    """
    settings, drivers = build.settings.synthesis, canvases.drivers
    sources: torch.Tensor | None = None
    strength: torch.Tensor | float = 1.0
    if not from_noise and settings.strength < 1:
        sources = backbone.encode(torch.from_numpy(canvases.backgrounds).permute(0, 3, 1, 2).float() / 127.5 - 1)
        maps = np.stack([strength_map(mask, settings.strength, settings.fade) for mask in canvases.masks])
        strength = F.max_pool2d(torch.from_numpy(maps)[:, None], backbone.factor)[:, 0].to(sources.device)  # (n, h, w)
    prompt = condition_prompt(build, canvases.defect_class) if defects else concept_prompt(build)
    steered = steering(build, hypernetwork, drivers if defects else without_defects(drivers), guided=defects)
    return sample_images(
        backbone, [prompt] * len(seeds), seeds, drivers.shape[1], steps=settings.steps, batch=settings.batch,
        sources=sources, strength=strength, on_batch=on_batch, **steered,
    )  # fmt: skip


def strength_map(mask: np.ndarray, strength: float, fade: float) -> np.ndarray:
    """(H, W) float32: 1 on the mask and MARGIN around it, falling to ``strength`` over the next ``fade`` px.

    The farther from a defect, the less of the background is painted anew; a sudden step would show as a seam.
    """
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - (1 - strength) * (distance - MARGIN) / max(fade, 1e-6), strength, 1).astype(np.float32)


def image_seed(seed: int, defect_class: str, name: str) -> int:
    """An image keeps its noise whatever else is asked for."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{defect_class}/{name}".encode()).digest()[:7])


def _show(build: Build, names: list[str], masks: list[list[tuple[str, np.ndarray]]]) -> None:
    """A 6x6 contact sheet of images as they are, and one with the masks they were asked to follow."""
    images = [read_image(build.path / IMAGES / name) for name in names[:36]]
    colours = class_colours(build.classes())
    build.picture("contact sheet", contact_sheet(images, columns=6))
    asked = [overlay(image, mask, colours) for image, mask in zip(images, masks, strict=False)]
    build.picture("contact sheet with masks", contact_sheet(asked, columns=6))
