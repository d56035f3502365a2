"""The SADF set of a class: shuffled annotations on defect-free images (paper A §3.4)."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from defect_pipeline import generator, imaging
from defect_pipeline.assets.concept import LOADED
from defect_pipeline.assets.drivers import read_synthesis_drivers, read_training
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masks import BankEntry, read_bank
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.generator.canvases import Canvases, image_seed, image_seeds
from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay, save_png
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.store import atomic_write

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from defect_pipeline.diffusion.backbone import Backbone
    from defect_pipeline.generator.painting import Painter, Sampler

log = logging.getLogger("defect_pipeline")
IMAGES = "images"
PAINTED = ("synthesis", "concept.token", "drivers.size", *LOADED)
MATCHED = 10  # painted defects, and
COMPARED = 100  # training crops at most, by which contrasts are matched


def painted_images(painted_from: From, *, name: str, group: str) -> Stage:
    """The stage that paints a class's images by drivers."""

    @stage(
        name=name,
        parents=painted_from.parents,
        settings=painted_from.settings,
        images=Subset(splits=()),
        group=group,
        kinds={"torch", "diffusers"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """Synthetic images of one class, whose masks are those they were painted for; resumes where it was killed."""
        fill_set(build, painted_from)

    return make


def fill_set(build: Build, painted_from: From) -> None:
    """Fill the artifact with a class's images, their masks as COCO, and sheets of them."""
    asked = paint_set(build, painted_from, build.workdir / IMAGES)
    shutil.copytree(build.workdir / IMAGES, build.path / IMAGES, ignore=shutil.ignore_patterns("*.partial"))
    masks = {name: entry.masks for name, entry in asked.items()}
    write_coco(build.path, masks, build.settings.drivers.size, build.classes)
    build.metadata |= {"images": len(asked)}
    colours = build.colours
    images = {name: read_image(build.path / IMAGES / name) for name in list(asked)[:36]}
    build.picture("contact sheet", contact_sheet(list(images.values()), columns=6))
    shown = [overlay(image, asked[name].masks, colours) for name, image in images.items()]
    build.picture("contact sheet with masks", contact_sheet(shown, columns=6))


def paint_set(build: Build, painted_from: From, folder: Path, *, defects: bool = True) -> dict[str, BankEntry]:
    """Paint what is missing in ``folder`` of the class's set, or without ``defects`` of its twins (see `paint`).

    Each image's file name and the entry of the mask bank behind it. The generator is loaded only where something is missing.
    """
    bank = read_bank(build.read(painted_from.bank).path)
    names = [
        (k, f"{k:04d}_{j:02d}.png") for k in range(len(bank)) for j in range(build.settings.synthesis.images_per_driver)
    ]
    folder.mkdir(exist_ok=True)
    todo = [(k, name) for k, name in names if not is_painted(folder / name)]
    if todo:
        painter = painted_from.painter(build)

        def keep(start: int, images: np.ndarray) -> None:
            for (_, name), image in zip(todo[start:], images, strict=False):
                atomic_write(folder / name, partial(save_png, image=image))  # half an image must not count as painted
            build.progress(start + len(images), len(todo))

        seeds = [image_seed(build.seed, build.defect_class, name) for _, name in todo]
        canvases = painted_from.canvases(build, build.defect_class, [k for k, _ in todo])
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


def write_coco(
    directory: Path, masks: Mapping[str, list[tuple[str, np.ndarray]]], size: int, classes: tuple[str, ...]
) -> None:
    """annotations.json of the images in ``masks``, whose paths are those of a `sadf_images` artifact."""
    records = [
        {"file_name": f"{IMAGES}/{name}", "width": size, "height": size, "synthetic": True, "driver": driver_of(name)}
        for name in masks
    ]
    (directory / "annotations.json").write_text(json.dumps(coco_dict(records, list(masks.values()), classes)))


class From(Protocol):
    """The stages that a generator paints from, and how it does."""

    @property
    def bank(self) -> Stage: ...

    @property
    def parents(self) -> tuple[Stage, ...]: ...

    @property
    def settings(self) -> tuple[str, ...]: ...

    def painter(self, build: Build) -> Painter:
        """The generator as it was learned."""

    def canvases(self, build: Build, defect_class: str, chosen: Sequence[int] | None = None) -> Canvases:
        """Those of a class's mask bank, or of its chosen entries, which may repeat."""


@dataclass(frozen=True)
class PaintedFrom:
    """The stages that the first system paints from."""

    pool: Stage
    bank: Stage
    drivers: Stage
    concept: Stage
    hypernetwork: Stage
    settings: tuple[str, ...] = PAINTED

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (inspection_images, self.pool, self.bank, self.drivers, self.concept, self.hypernetwork)

    def generator(self, build: Build) -> tuple[Backbone, ControlNetModel]:
        """The concept and its hypernetwork."""
        unet, hypernetwork = build.read(self.concept).path / "unet", build.read(self.hypernetwork).path / "controlnet"
        return generator.loading.load_generator(build.settings, unet, hypernetwork)

    def painter(self, build: Build) -> Painter:
        """Paints by concept and hypernetwork."""
        return partial(
            generator.painting.paint, *self.generator(build), synthesis=build.settings.synthesis,
            token=build.settings.concept.token, scale=partial(self.scale, build),
        )  # fmt: skip

    def canvases(self, build: Build, defect_class: str, chosen: Sequence[int] | None = None) -> Canvases:
        """Those of a class's mask bank, or of its chosen entries, which may repeat."""
        return read_canvases(build, self.pool, self.bank, self.drivers, defect_class, chosen)

    def scale(self, build: Build, sampled: Sampler) -> float:
        """See `contrast_scale`."""
        return contrast_scale(build, sampled, self.pool, self.bank, self.drivers)


def read_canvases(
    build: Build, pool: Stage, bank: Stage, drivers: Stage, defect_class: str, chosen: Sequence[int] | None = None
) -> Canvases:
    """The canvases of a class: entries of its bank, all or the chosen ones, on pictures of a pool."""
    backgrounds, entries = build.read(pool).path, read_bank(build.read(bank, defect_class).path)
    chosen = range(len(entries)) if chosen is None else chosen
    return Canvases(
        defect_class,
        read_synthesis_drivers(build.read(drivers, defect_class).path)[list(chosen)],
        np.stack([read_image(backgrounds / entries[k].background) for k in chosen]),
        np.stack([entries[k].mask() for k in chosen]),
    )


def contrast_scale(build: Build, sampled: Sampler, pool: Stage, bank: Stage, drivers: Stage) -> float:
    """At which the changes of the build's class stand out as its training defects do, from the first entries of its mask
    bank: the same however many images are left to paint. 1 where contrasts are not matched."""
    synthesis, k = build.settings.synthesis, build.defect_class
    if not synthesis.match_contrast:
        return 1.0
    known = read_training({k: build.read(drivers).path})
    some = slice(None, None, math.ceil(len(known.classes) / COMPARED))
    wanted = imaging.contrast.typical_contrast(known.images[some], known.masks[some])
    n = min(MATCHED, len(read_bank(build.read(bank).path)))
    canvases, seeds = read_canvases(build, pool, bank, drivers, k, range(n)), image_seeds(build.seed, k, "scale", n)
    found = generator.painting.matched_contrast(sampled, canvases, seeds, wanted, visible=synthesis.visible)
    build.metadata |= {
        "contrast, training": found.training,
        "contrast, painted": found.painted,
        "scale of changes": found.scale,
    }
    return found.scale
