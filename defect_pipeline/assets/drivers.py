"""Pool × masks and annotated images → topological drivers (paper A §3.3)."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from defect_pipeline.assets.masks import annotated, read_bank
from defect_pipeline.assets.stage import Build, content_of, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.files import content_digest
from defect_pipeline.imaging.crops import Crop, defect_crops
from defect_pipeline.imaging.drivers import driver
from defect_pipeline.imaging.io import read_image, read_mask
from defect_pipeline.imaging.sheets import contact_sheet, save_png

TRAINING, SYNTHESIS = "training", "synthesis"


@stage(
    parents=("inspection_images", "defect_free_pool", "mask_bank"),
    settings=lambda pipeline: pipeline.settings.drivers,
    images=annotated,
    group="drivers",
    kinds={"opencv"},
    partitioned=True,
    version="2",
)
def topological_drivers(build: Build) -> None:
    """What the generator is told: structure in dark grey, defects in class colour. For training and for synthesis."""
    dataset = build.dataset()
    train = [i for i in dataset.of_class(build.defect_class) if dataset.images.at[i, "split"] == "train"]
    (build.path / TRAINING).mkdir()
    (build.path / SYNTHESIS).mkdir()
    made = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # OpenCV leaves Python's lock
        for done, crops in enumerate(threads.map(partial(_save_training, build), range(len(train)), train), start=1):
            made += crops
            build.progress(done, len(train))
    if not made:
        raise PipelineError(
            f"Class {build.defect_class!r} has no train image with a visible defect under {dataset.root}; "
            "annotate more images of it, or take the class out."
        )
    bank, pool = read_bank(build.parent("mask_bank").path), build.parent("defect_free_pool").path
    for k, entry in enumerate(bank):
        background = read_image(pool / entry.background)
        save_png(build.path / SYNTHESIS / f"{k:04d}.driver.png", make_driver(build, background, entry.masks))
        build.progress(k + 1, len(bank))
    build.metadata[content_of(TRAINING)] = content_digest(build.path / TRAINING)
    build.metadata |= {"training drivers": made, "train images": len(train), "synthesis drivers": len(bank)}
    build.picture("drivers", _sheet(build.path))


def _save_training(build: Build, number: int, image_id: int) -> int:
    """Writes the training crops of an image, its files numbered by the image and within it; how many there are."""
    made = 0
    for made, crop in enumerate(training_crops(build, [image_id], build.defect_class), start=1):
        stem = build.path / TRAINING / f"{number:06d}-{made - 1:02d}"
        save_png(stem.with_suffix(".image.png"), crop.image)
        save_png(stem.with_suffix(".driver.png"), make_driver(build, crop.image, crop.masks))
        save_png(stem.with_suffix(".mask.png"), crop.mask().astype(np.uint8) * 255)
    return made


def training_crops(build: Build, image_ids: Sequence[int], defect_class: str) -> Iterator[Crop]:
    """What the generator trains on: crops of these images around their defects of a class."""
    settings = build.settings.drivers
    return defect_crops(
        build.dataset(), image_ids, defect_class, settings.size,
        per_image=settings.crops, zoom=settings.zoom, seed=build.pipeline.seed,
    )  # fmt: skip


def make_driver(build: Build, image: np.ndarray, masks: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """The driver of a square image, by the profile's settings and the component's class colours."""
    settings = build.settings.drivers
    return driver(
        image, masks, settings.size, build.colours(),
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
    files = [(k, path) for k, d in directories.items() for path in sorted((d / TRAINING).glob("*.image.png"))]
    stem = [(path.parent, path.name.split(".")[0]) for _, path in files]
    return TrainingCrops(
        np.stack([read_image(path) for _, path in files]),
        np.stack([read_image(folder / f"{name}.driver.png") for folder, name in stem]),
        np.stack([read_mask(folder / f"{name}.mask.png") for folder, name in stem]),
        [k for k, _ in files],
    )


def read_synthesis_drivers(directory: Path) -> np.ndarray:
    """(n, S, S, 3) uint8: the synthesis drivers of a `topological_drivers` artifact, in the mask bank's order."""
    return np.stack([read_image(path) for path in sorted((directory / SYNTHESIS).glob("*.driver.png"))])


def driver_files(directory: Path) -> list[Path]:
    """Every driver of a `topological_drivers` artifact."""
    return sorted(directory.glob("*/*.driver.png"))


def _sheet(directory: Path) -> np.ndarray:
    """Six training crops above their drivers, and twelve synthesis drivers."""
    images = sorted((directory / TRAINING).glob("*.image.png"))[
        :: max(1, len(list((directory / TRAINING).glob("*.image.png"))) // 6)
    ][:6]
    drivers = [path.with_name(path.name.replace("image", "driver")) for path in images]
    synthesis = sorted((directory / SYNTHESIS).glob("*.png"))[:12]
    shown = [*images, *drivers, *synthesis]
    captions = ["train image"] * len(images) + ["its driver"] * len(drivers) + ["synthesis"] * len(synthesis)
    return contact_sheet([read_image(path) for path in shown], captions, columns=len(images))
