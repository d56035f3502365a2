"""The SADF set of a class: shuffled annotations on defect-free images (paper A §3.4)."""

import hashlib
import json
import shutil
from functools import partial

import numpy as np
import torch
from diffusers import ControlNetModel
from torch.nn import functional as F

from defect_pipeline.assets.concept import load_concept
from defect_pipeline.assets.drivers import read_synthesis_drivers
from defect_pipeline.assets.hypernetwork import condition_prompt, steering
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.diffusion.sampling import sample_images
from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay, save_png
from defect_pipeline.store import atomic_write

IMAGES = "images"


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
    drivers = read_synthesis_drivers(build.parent("topological_drivers").path)
    bank = read_bank(build.parent("mask_bank").path)
    names = [(k, f"{k:04d}_{j:02d}.png") for k in range(len(bank)) for j in range(settings.images_per_driver)]
    work = build.workdir / IMAGES
    work.mkdir(exist_ok=True)
    todo = [(k, name) for k, name in names if not (work / name).exists()]
    if todo:
        _paint(build, drivers, todo)
    shutil.copytree(work, build.path / IMAGES, ignore=shutil.ignore_patterns("*.partial"))

    size = drivers.shape[1]
    records = [
        {"file_name": f"{IMAGES}/{name}", "width": size, "height": size, "synthetic": True, "driver": k}
        for k, name in names
    ]
    masks = [bank[k].masks for k, _ in names]
    (build.path / "annotations.json").write_text(json.dumps(coco_dict(records, masks, build.classes())))
    build.metadata |= {"images": len(names), "drivers": len(bank), "painted now": len(todo)}
    _show(build, [name for _, name in names], masks)


def _paint(build: Build, drivers: np.ndarray, todo: list[tuple[int, str]]) -> None:
    """Sample the missing images and keep each batch as soon as it is there."""
    settings = build.settings.synthesis
    backbone = load_concept(build)
    hypernetwork = ControlNetModel.from_pretrained(
        build.parent("hypernetwork_weights").path / "controlnet", dtype=torch.float32
    ).to(backbone.device)
    work = build.workdir / IMAGES

    def keep(start: int, latents: torch.Tensor) -> None:
        for (_, name), image in zip(todo[start:], backbone.decode(latents).numpy(), strict=False):
            atomic_write(work / name, partial(save_png, image=image))  # half an image must not count as painted
        build.progress(start + len(latents), len(todo))

    sources = free = None
    if settings.strength < 1:
        pool, bank = build.parent("defect_free_pool").path, read_bank(build.parent("mask_bank").path)
        backgrounds = np.stack([read_image(pool / bank[k].background) for k, _ in todo])
        sources = backbone.encode(torch.from_numpy(backgrounds).permute(0, 3, 1, 2).float() / 127.5 - 1)
        masks = np.stack([np.any([mask for _, mask in bank[k].masks], axis=0) for k, _ in todo])
        cells = F.max_pool2d(torch.from_numpy(masks)[:, None].float(), drivers.shape[1] // sources.shape[2])
        free = F.max_pool2d(cells, 3, stride=1, padding=1)[:, 0].to(sources.device) > 0  # and a margin of one cell
    sample_images(
        backbone, [condition_prompt(build, build.defect_class)] * len(todo),
        [_image_seed(build.pipeline.seed, build.defect_class, name) for _, name in todo], drivers.shape[1],
        steps=settings.steps, batch=settings.batch, sources=sources, strength=settings.strength, free=free,
        on_batch=keep, **steering(build, hypernetwork, drivers[[k for k, _ in todo]]),
    )  # fmt: skip


def _image_seed(seed: int, defect_class: str, name: str) -> int:
    """An image keeps its noise whatever else is asked for."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{defect_class}/{name}".encode()).digest()[:7])


def _show(build: Build, names: list[str], masks: list[list[tuple[str, np.ndarray]]]) -> None:
    """A 6x6 contact sheet of images as they are, and one with the masks they were asked to follow."""
    images = [read_image(build.path / IMAGES / name) for name in names[:36]]
    colours = class_colours(build.classes())
    build.picture("contact sheet", contact_sheet(images, columns=6))
    asked = [overlay(image, mask, colours) for image, mask in zip(images, masks, strict=False)]
    build.picture("contact sheet with masks", contact_sheet(asked, columns=6))
