"""Pool × masks and annotated images → topological drivers (paper A §3.3)."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masks import annotated, read_bank
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.files import content_digest
from defect_pipeline.imaging.crops import Crop, defect_crops
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import driver
from defect_pipeline.imaging.io import read_image, read_mask
from defect_pipeline.imaging.sheets import contact_sheet, save_png
from defect_pipeline.profiles import Drivers
from defect_pipeline.store import Artifact, digest_of

TRAINING, SYNTHESIS = "training", "synthesis"


def topological_drivers(
    pool: Stage, bank: Stage, *, name: str = "topological_drivers", group: str = "drivers"
) -> Stage:
    """The stage that draws drivers of train images, and of the masks of a bank on the pictures of a pool."""

    @stage(
        name=name,
        parents=tuple(dict.fromkeys((inspection_images, pool, bank))),
        settings=("drivers",),
        images=annotated,
        group=group,
        kinds={"opencv"},
        partitioned=True,
        version="3",
    )
    def make(build: Build) -> None:
        """The condition of the generator: structure in dark grey, defects in class colour. For training and for synthesis.

        Training crops of an image lie side by side in a strip, in others their drivers and their masks. The strips' name tells
        what they were made from, so that those of images that were there before are taken over.
        """
        dataset = build.dataset
        train = [i for i in dataset.of_class(build.defect_class) if dataset.images.at[i, "split"] == "train"]
        (build.path / TRAINING).mkdir()
        (build.path / SYNTHESIS).mkdir()
        made = 0
        save = partial(_save_training, build, _strips_of(build.before()))
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # OpenCV leaves Python's lock
            for done, crops in enumerate(threads.map(save, range(len(train)), train), start=1):
                made += crops
                build.progress(done, len(train))
        if not made:
            raise PipelineError(
                f"Class {build.defect_class!r} has no train image with a visible defect under {dataset.root}; "
                "annotate more images of it, or take the class out."
            )
        entries, backgrounds = read_bank(build.read(bank).path), build.read(pool).path
        for k, entry in enumerate(entries):
            background = read_image(backgrounds / entry.background)
            save_png(
                build.path / SYNTHESIS / f"{k:04d}.driver.png",
                make_driver(background, entry.masks, build.settings.drivers, build.colours),
            )
            build.progress(k + 1, len(entries))
        build.draft.contents[TRAINING] = content_digest(build.path / TRAINING)
        build.metadata |= {"training drivers": made, "train images": len(train), "synthesis drivers": len(entries)}
        build.picture("drivers", _sheet(build.path))

    return make


def _save_training(build: Build, before: dict[str, Path], number: int, image_id: int) -> int:
    """Writes the strips of an image, or copies those of ``before``; the number of its crops, without any there are none."""
    dataset = build.dataset
    shapes = dataset.shapes(image_id)
    origin = digest_of(
        build.stage.version, build.settings.drivers, build.seed, build.defect_class,
        dataset.images.at[image_id, "sha256"], shapes, {name: build.colours[name] for name, _ in shapes},
    )  # fmt: skip
    masks = build.path / TRAINING / f"{number:06d}-{origin}.mask.png"
    if origin in before:
        for name in ("image", "driver", "mask"):
            shutil.copyfile(_strip(before[origin], name), _strip(masks, name))
        return len(_crops(read_mask(masks)))
    settings, colours = build.settings.drivers, build.colours
    crops = list(training_crops(dataset, [image_id], build.defect_class, settings, build.seed))
    if crops:
        save_png(masks, np.hstack([crop.mask().astype(np.uint8) * 255 for crop in crops]))
        save_png(_strip(masks, "image"), np.hstack([crop.image for crop in crops]))
        drivers = [make_driver(crop.image, crop.masks, settings, colours) for crop in crops]
        save_png(_strip(masks, "driver"), np.hstack(drivers))
    return len(crops)


def _strips_of(before: Artifact | None) -> dict[str, Path]:
    """The masks' strips of an artifact, by what they were made from."""
    strips = _mask_strips(before.path) if before else []
    return {path.name.split(".")[0].split("-")[1]: path for path in strips}


def _mask_strips(directory: Path) -> list[Path]:
    """Of a `topological_drivers` artifact, one for each train image."""
    return sorted((directory / TRAINING).glob("*.mask.png"))


def _strip(masks: Path, name: str) -> Path:
    """The "image", "driver" or "mask" strip beside that of the masks."""
    return masks.with_name(f"{masks.name.split('.')[0]}.{name}.png")


def _crops(strip: np.ndarray) -> list[np.ndarray]:
    """The squares (S, S, ...) of a strip (S, n S, ...)."""
    return np.split(strip, strip.shape[1] // strip.shape[0], axis=1)


def training_crops(
    dataset: Dataset, image_ids: Sequence[int], defect_class: str, settings: Drivers, seed: int
) -> Iterator[Crop]:
    """What the generator trains on: crops of these images around their defects of a class."""
    return defect_crops(
        dataset, image_ids, defect_class, settings.size, per_image=settings.crops, zoom=settings.zoom, seed=seed
    )


def make_driver(
    image: np.ndarray,
    masks: list[tuple[str, np.ndarray]],
    settings: Drivers,
    colours: Mapping[str, tuple[int, int, int]],
) -> np.ndarray:
    """The driver of a square image, by the profile's settings and the component's class colours."""
    return driver(
        image, masks, settings.size, colours,
        downscale=settings.downscale, block=settings.block, offset=settings.offset,
    )  # fmt: skip


@dataclass(frozen=True)
class TrainingCrops:
    """images and drivers (n, S, S, 3) uint8, masks (n, S, S) bool, the class of each."""

    images: np.ndarray
    drivers: np.ndarray
    masks: np.ndarray
    classes: list[str]


def read_training(directories: dict[str, Path]) -> TrainingCrops:
    """The training crops of `topological_drivers` artifacts, by class."""
    strips = [(k, path) for k, directory in directories.items() for path in _mask_strips(directory)]
    masks = [(k, mask) for k, path in strips for mask in _crops(read_mask(path))]
    images, drivers = (
        np.stack([crop for _, path in strips for crop in _crops(read_image(_strip(path, name)))])
        for name in ("image", "driver")
    )
    return TrainingCrops(images, drivers, np.stack([mask for _, mask in masks]), [k for k, _ in masks])


def read_synthesis_drivers(directory: Path) -> np.ndarray:
    """(n, S, S, 3) uint8: the synthesis drivers of a `topological_drivers` artifact, in the mask bank's order."""
    return np.stack([read_image(path) for path in sorted((directory / SYNTHESIS).glob("*.driver.png"))])


def read_drivers(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every driver of a `topological_drivers` artifact (S, S, 3) uint8, with the name of its file."""
    for path in sorted(directory.glob("*/*.driver.png")):
        yield from ((path.name, driver) for driver in _crops(read_image(path)))


def _sheet(directory: Path) -> np.ndarray:
    """Six training crops above their drivers, and twelve synthesis drivers."""
    strips = _mask_strips(directory)
    shown = strips[:: max(1, len(strips) // 6)][:6]
    images, drivers = ([_crops(read_image(_strip(path, name)))[0] for path in shown] for name in ("image", "driver"))
    synthesis = list(read_synthesis_drivers(directory)[:12])
    captions = ["train image"] * len(images) + ["its driver"] * len(drivers) + ["synthesis"] * len(synthesis)
    return contact_sheet([*images, *drivers, *synthesis], captions, columns=len(images))
