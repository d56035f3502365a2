"""What tests of several folders stand on: a tiny component, a profile as small as can be, copies of a finished store."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from defect_pipeline import definitions, profiles, systems
from defect_pipeline.assets.checks import Check, Problems
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.profiles import EMBEDDED
from defect_pipeline.store import Artifact, Draft, Store
from defect_pipeline.system import Sheet, System
from defect_pipeline.systems import SYSTEMS
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.workplace import Workplace

SIZE = 64


def write_component(folder: Path) -> None:
    """Two defect classes and a defect-free one, as class folders of image + mask; every image is a part of its own."""
    for name, seed, marked in (("alpha", 1, 1.0), ("beta", 2, 1.0), ("clean", 3, 0.0)):
        write_class(folder / name, seed, marked)


def write_class(folder: Path, seed: int, marked: float = 1.0) -> None:
    """Eight images with masks, of parts that the seed draws; a share ``marked`` of them show a defect."""
    drawn = draw_surfaces(12, 96, torch.Generator().manual_seed(seed), marked=marked)
    folder.mkdir(parents=True)
    kept = [i for i in range(12) if not marked or drawn.masks[i].sum() > 40][:8]
    for i in kept:
        image = (drawn.images[i].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.jpg"), image[..., ::-1])
        cv2.imwrite(str(folder / f"{i:02d}.png"), drawn.masks[i].numpy().astype(np.uint8) * 255)


def tiny(name: str, backbone: Path, *, steps: int = 2, segmentor_steps: int = 2) -> profiles.Profile:
    """The embedded profile with a backbone, trainings and sets as small as they can be, and an open gate."""
    return replace(
        EMBEDDED,
        name=name,
        backbone=str(backbone),
        pool=profiles.Pool(variants=3, images=3),
        masks=profiles.Masks(per_class=3),
        drivers=replace(EMBEDDED.drivers, size=SIZE, crops=2),
        concept=replace(EMBEDDED.concept, steps=steps, batch=2, prior_images=2, window=32),
        hypernetwork=replace(EMBEDDED.hypernetwork, init="zero", steps=steps, batch=2, window=32),
        synthesis=replace(EMBEDDED.synthesis, steps=2, batch=4, images_per_driver=2),
        segmentor=replace(EMBEDDED.segmentor, steps=segmentor_steps, passes=0, batch=2),
        filter=profiles.Filter(visible=0, ratio=0, on_component=0),
        thresholds=profiles.Thresholds(kid=1e9, fid=1e9, in_mask=0, copies=1, accepted=0),
    )


def copy_of(place: Workplace, folder: Path, without: str = "") -> Workplace:
    """A copy of a store in a folder, to be changed; it lacks the asset ``without``."""
    ignored = shutil.ignore_patterns(without) if without else None
    return Workplace.at(shutil.copytree(place.store_root, folder / "store", ignore=ignored))


def stage_named(name: str) -> Stage:
    """The stage of any system that has this name."""
    return next(one for system in SYSTEMS for one in system.all_stages if one.name == name)


def build_of(place: Workplace, name: str, partition: str | None, folder: Path) -> Build:
    """A build of a stage, as it is handed to its function, that fills a folder."""
    made = stage_named(name)
    inputs = made.inputs(place.store, partition)
    return Build(made, inputs, partition, Draft(folder), folder, place.store, place.pipeline)


def grown(monkeypatch: pytest.MonkeyPatch) -> System:
    """The first system with one more stage, a check on it and a picture of it: all that it takes."""

    @stage(parents=(inspection_images,), images=Subset(("train",)), group="data", kinds={"opencv"})
    def brightness_report(build: Build) -> None:
        """How bright the train images are."""
        brightest = max(float(build.dataset.image(i).mean()) for i in build.dataset.of_split("train"))
        build.keep({"brightest": brightest})
        build.picture("levels", np.full((8, 8, 3), round(brightest), np.uint8))

    def problems(artifact: Artifact, store: Store, thresholds: profiles.Thresholds) -> Problems:
        figures = artifact.load(dict[str, float])
        return ["An image is overexposed."] if figures["brightest"] > 250 else [], figures

    check = Check("not_too_bright", brightness_report, "No image is overexposed.", problems)
    picture = Sheet(brightness_report, "levels", "How bright the images are")
    more = {"stages": (*SADF.stages, brightness_report), "checks": (*SADF.checks, check), "overview": (picture,)}
    system = replace(SADF, **more)
    for module in (systems, definitions):
        monkeypatch.setattr(module, "SYSTEMS", (system, *SYSTEMS[1:]))
    return system
