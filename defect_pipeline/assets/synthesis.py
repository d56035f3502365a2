"""The SADF set of a class: shuffled annotations on defect-free images (paper A §3.4)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from defect_pipeline import diffusion, imaging
from defect_pipeline.assets.concept import concept_prompt, load_concept
from defect_pipeline.assets.drivers import read_synthesis_drivers, read_training
from defect_pipeline.assets.hypernetwork import condition_prompt, steering
from defect_pipeline.assets.masks import BankEntry, read_bank
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.drivers import without_defects
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay, save_png
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.store import atomic_write

if TYPE_CHECKING:
    from diffusers import ControlNetModel
    from torch import Tensor

    from defect_pipeline.diffusion.backbone import Backbone

log = logging.getLogger("defect_pipeline")
IMAGES = "images"
PAINTED_FROM = (
    "inspection_images", "defect_free_pool", "mask_bank", "topological_drivers", "concept_weights", "hypernetwork_weights",
)  # fmt: skip
MARGIN = 2  # px: a defect may reach a little past its outline
MATCHED = 10  # painted defects, and
COMPARED = 100  # training crops at most, by which contrasts are matched


@stage(
    parents=PAINTED_FROM,
    settings=lambda pipeline: (pipeline.settings.synthesis, pipeline.settings.precision),
    images=Subset(splits=()),
    group="synthesis",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def sadf_images(build: Build) -> None:
    """Synthetic images of one class, their masks being the ones they were asked for; resumes where it was killed."""
    fill_set(build, load_painter)


def fill_set(build: Build, load: Callable[[Build], Painter]) -> None:
    """Fill the artifact with a class's images, painted by what ``load`` gives, their masks as COCO, and sheets of them."""
    asked = paint_set(build, build.workdir / IMAGES, load)
    shutil.copytree(build.workdir / IMAGES, build.path / IMAGES, ignore=shutil.ignore_patterns("*.partial"))
    write_coco(build, {name: entry.masks for name, entry in asked.items()})
    build.metadata |= {"images": len(asked)}
    colours = build.colours()
    images = {name: read_image(build.path / IMAGES / name) for name in list(asked)[:36]}
    build.picture("contact sheet", contact_sheet(list(images.values()), columns=6))
    shown = [overlay(image, asked[name].masks, colours) for name, image in images.items()]
    build.picture("contact sheet with masks", contact_sheet(shown, columns=6))


def paint_set(
    build: Build, folder: Path, load: Callable[[Build], Painter], *, defects: bool = True
) -> dict[str, BankEntry]:
    """Paint what is missing in ``folder`` of the class's set, or without ``defects`` of its twins (see `paint`).

    Each image's file name and the entry of the mask bank behind it. ``load`` is called only where something is missing.
    """
    bank = read_bank(build.parent("mask_bank").path)
    names = [
        (k, f"{k:04d}_{j:02d}.png") for k in range(len(bank)) for j in range(build.settings.synthesis.images_per_driver)
    ]
    folder.mkdir(exist_ok=True)
    todo = [(k, name) for k, name in names if not is_painted(folder / name)]
    if todo:
        painter = load(build)

        def keep(start: int, images: np.ndarray) -> None:
            for (_, name), image in zip(todo[start:], images, strict=False):
                atomic_write(folder / name, partial(save_png, image=image))  # half an image must not count as painted
            build.progress(start + len(images), len(todo))

        seeds = [image_seed(build.pipeline.seed, build.defect_class, name) for _, name in todo]
        canvases = read_canvases(build, build.defect_class, [k for k, _ in todo])
        painter(canvases, seeds, defects=defects, on_batch=keep)
    build.metadata["painted now"] = len(todo)
    return {name: bank[k] for k, name in names}


def is_painted(file: Path) -> bool:
    """Whether an earlier process has left this image whole; a damaged one is said to be so, and is painted anew."""
    if not file.exists():
        return False
    try:
        read_image(file)
    except PipelineError:
        log.warning("%s is damaged; it is painted anew.", file)
        return False
    return True


def painted_files(painted: Path) -> list[str]:
    """The file names of a `sadf_images` artifact's images, in order."""
    return sorted(path.name for path in (painted / IMAGES).glob("*.png"))


def driver_of(name: str) -> int:
    """The entry of the mask bank that an image of the set was painted for."""
    return int(name.split("_")[0])


def read_set(painted: Path, bank: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The images of a `sadf_images` artifact, in the order of their names, and the masks asked of a `mask_bank`."""
    names, entries = painted_files(painted), read_bank(bank)
    return [read_image(painted / IMAGES / name) for name in names], [entries[driver_of(name)].mask() for name in names]


def write_coco(build: Build, masks: Mapping[str, list[tuple[str, np.ndarray]]]) -> None:
    """annotations.json of the images in ``masks``, whose paths are those of a `sadf_images` artifact."""
    size = build.settings.drivers.size
    records = [
        {"file_name": f"{IMAGES}/{name}", "width": size, "height": size, "synthetic": True, "driver": driver_of(name)}
        for name in masks
    ]
    (build.path / "annotations.json").write_text(json.dumps(coco_dict(records, list(masks.values()), build.classes())))


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

    def __getitem__(self, chosen: slice) -> Canvases:
        return Canvases(self.defect_class, self.drivers[chosen], self.backgrounds[chosen], self.masks[chosen])


class Painter(Protocol):
    """Paints images (n, S, S, 3) uint8, one for each canvas and seed, or without ``defects`` their twins: the same in
    everything but the masks. ``on_batch(start, images)`` is called after each batch."""

    def __call__(
        self, canvases: Canvases, seeds: Sequence[int], *, defects: bool, on_batch: Callable[[int, np.ndarray], None]
    ) -> np.ndarray: ...


class Sampler(Protocol):
    """A batch (n, S, S, 3) uint8 as a generator paints it, with the canvases' defects or without."""

    def __call__(self, canvases: Canvases, seeds: Sequence[int], defects: bool, /) -> np.ndarray: ...


def load_painter(build: Build) -> Painter:
    """The first system's: concept and hypernetwork."""
    return partial(paint, build, *load_generator(build))


def read_canvases(build: Build, defect_class: str, chosen: Sequence[int] | None = None) -> Canvases:
    """Those of a class's mask bank, or of its chosen entries, which may repeat."""
    pool, bank = build.parent("defect_free_pool").path, read_bank(build.parent("mask_bank", defect_class).path)
    chosen = range(len(bank)) if chosen is None else chosen
    return Canvases(
        defect_class,
        read_synthesis_drivers(build.parent("topological_drivers", defect_class).path)[list(chosen)],
        np.stack([read_image(pool / bank[k].background) for k in chosen]),
        np.stack([bank[k].mask() for k in chosen]),
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
    on_batch: Callable[[int, np.ndarray], None] = lambda *_: None,
) -> np.ndarray:
    """What a `Painter` paints, by the first system's generator.

    With `Synthesis.transfer`, what the masks changed against the images' twins goes onto the backgrounds: the surface
    itself is theirs to the last pixel, and a twin is the background. With `match_contrast`, the changes are toned down until
    they stand out as training defects do, but stay visible. Without transfer, or ``from_noise``, they are the generator's
    as they are, ``from_noise`` all of them from pure noise, as in the paper.
    """
    sampled = partial(_sampled, build, backbone, hypernetwork, from_noise)
    transfer = build.settings.synthesis.transfer and not from_noise
    return in_batches(build, sampled, transfer, canvases, seeds, defects=defects, on_batch=on_batch)


def in_batches(
    build: Build,
    sampled: Sampler,
    transfer: bool,
    canvases: Canvases,
    seeds: Sequence[int],
    *,
    defects: bool,
    on_batch: Callable[[int, np.ndarray], None],
) -> np.ndarray:
    """What a `Painter` paints, by ``sampled``, which is given a batch at a time."""
    parts, batch = [], build.settings.synthesis.batch
    scale = _scale(build, sampled, canvases.defect_class) if transfer and defects else 1.0
    for start in range(0, len(seeds), batch):
        chosen, noise = canvases[start : start + batch], seeds[start : start + batch]
        if not transfer:
            images = sampled(chosen, noise, defects)
        elif defects:
            images = imaging.contrast.with_changes(chosen.backgrounds, _changes(sampled, chosen, noise), scale)
        else:
            images = chosen.backgrounds
        parts.append(images)
        on_batch(start, images)
    return np.concatenate(parts)


def _changes(sampled: Sampler, canvases: Canvases, seeds: Sequence[int]) -> np.ndarray:
    """What the masks change in grey levels, (n, S, S, 3) int16: what sets images apart from their twins.

    What a small generator gets wrong about the surface, image and twin have in common, so it cancels.
    """
    return sampled(canvases, seeds, True).astype(np.int16) - sampled(canvases, seeds, False)


def _scale(build: Build, sampled: Sampler, defect_class: str) -> float:
    """At which a class's changes stand out as its training defects do, from the first entries of its mask bank: the
    same however many images are left to paint."""
    if not build.settings.synthesis.match_contrast:
        return 1.0
    known = read_training({defect_class: build.parent("topological_drivers", defect_class).path})
    chosen = slice(None, None, math.ceil(len(known.classes) / COMPARED))
    wanted = imaging.contrast.typical_contrast(known.images[chosen], known.masks[chosen])
    entries = range(len(read_bank(build.parent("mask_bank", defect_class).path)))[:MATCHED]
    canvases = read_canvases(build, defect_class, entries)
    changes = _changes(
        sampled, canvases, [image_seed(build.pipeline.seed, defect_class, f"scale/{k}") for k in entries]
    )
    visible = build.settings.synthesis.visible
    scale = imaging.contrast.matching_scale(canvases.backgrounds, changes, canvases.masks, wanted, visible=visible)
    painted = imaging.contrast.typical_contrast(
        imaging.contrast.with_changes(canvases.backgrounds, changes), canvases.masks
    )
    build.metadata |= {"contrast, training": wanted, "contrast, painted": painted, "scale of changes": scale}
    return scale


def _sampled(
    build: Build,
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    from_noise: bool,
    canvases: Canvases,
    seeds: Sequence[int],
    defects: bool,
) -> np.ndarray:
    """One batch as the generator paints it, (n, S, S, 3) uint8.

    What the masks cover comes from noise, and so does everything at a strength of 1, or ``from_noise``; else what lies
    around comes from the background, see `strength_map`.
    """
    settings, drivers = build.settings.synthesis, canvases.drivers
    sources: Tensor | None = None
    strength: Tensor | float = 1.0
    if not from_noise and settings.strength < 1:
        sources = backbone.encode_pixels(canvases.backgrounds)
        strength = strengths(build, backbone, canvases, settings.strength)
    plain = concept_prompt(build)
    prompt = condition_prompt(build, canvases.defect_class) if defects else plain
    steered = steering(build, hypernetwork, drivers if defects else without_defects(drivers), plain, guided=defects)
    latents = diffusion.sampling.sample_images(
        backbone, [prompt] * len(seeds), seeds, drivers.shape[1], steps=settings.steps, batch=settings.batch,
        sources=sources, strength=strength, **steered,
    )  # fmt: skip
    return backbone.decode(latents).numpy()


def strengths(build: Build, backbone: Backbone, canvases: Canvases, strength: float) -> Tensor:
    """`strength_map` of every canvas, (n, h, w) at latent size."""
    fade = build.settings.synthesis.fade
    return backbone.at_latent_size(np.stack([strength_map(mask, strength, fade) for mask in canvases.masks]))


def strength_map(mask: np.ndarray, strength: float, fade: float) -> np.ndarray:
    """(H, W) float32: 1 on the mask and MARGIN around it, falling to ``strength`` over the next ``fade`` px.

    The farther from a defect, the less of the background is painted anew; a sudden step would show as a seam.
    """
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - (1 - strength) * (distance - MARGIN) / max(fade, 1e-6), strength, 1).astype(np.float32)


def image_seed(seed: int, defect_class: str, name: str) -> int:
    """An image keeps its noise whatever else is asked for."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{defect_class}/{name}".encode()).digest()[:7])
