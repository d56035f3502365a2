"""Data: a folder of images up to the drivers, and the same again when some images have joined."""

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from defect_pipeline.automation.instance import open_instance
from defect_pipeline.automation.jobs import run_everything
from defect_pipeline.definitions import definitions_for
from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.imaging.io import read_mask
from defect_pipeline.store import Artifact, Store
from defect_pipeline.system import Step
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.benchmarks.processes import apart
from defect_pipeline_tests.benchmarks.timing import Row

JOINING, SIZE, AT_ONCE, MARKED = 10, 128, 100, 0.9
PREPARING = SADF.plan[:2]


def preparing(n: int, repeats: int) -> Row:
    """Registering with groups and splits, pool, masks and drivers, for n drawn images and for ten more: time and memory."""
    again, first, stages = [], [], []
    for _ in range(repeats):
        with TemporaryDirectory() as directory:
            base = Path(directory)
            draw(base / "drawn", n + JOINING, marked=MARKED)
            names = sorted({path.stem for path in (base / "drawn").iterdir()})
            _move(base, names[:n])
            first.append(apart(partial(_prepare, base)))
            before = _stages(base)
            _move(base, names[n:])
            again.append(apart(partial(_prepare, base)))
            stages.append((before, _stages(base)))
    (ours, our_memory), (theirs, their_memory) = (zip(*measured, strict=True) for measured in (again, first))
    return Row(
        f"registering, pool, masks and drivers: {JOINING} more images, {SIZE} px", n, list(ours), list(theirs),
        f"the first {n}; {_in_words(*stages[0])}", memory=(max(our_memory), max(their_memory)),
    )  # fmt: skip


def _place(base: Path) -> Workplace:
    return Workplace.at(base / "store", data=str(base / "data"))


def _prepare(base: Path) -> None:
    logging.getLogger("defect_pipeline").setLevel(logging.WARNING)
    place = _place(base)
    place.open()
    with open_instance(place.store_root) as instance:
        failures = run_everything(definitions_for(place), instance, place.store, place.pipeline, SADF, PREPARING)
    assert not failures, " ".join(failures)


def _stages(base: Path) -> dict[str, tuple[str, float]]:
    """Of each stage, its artifact and the seconds that making it took."""
    made = artifacts(_place(base).store, PREPARING)
    return {artifact.asset: (artifact.digest, artifact.metadata["seconds"]) for artifact in made}


def artifacts(store: Store, plan: Sequence[Step]) -> list[Artifact]:
    """What the store holds of a plan."""
    return [
        store.current(one.name, partition)
        for step in plan
        for partition in step.partitions(store)
        for one in step.stages
    ]


def _in_words(before: dict[str, tuple[str, float]], after: dict[str, tuple[str, float]]) -> str:
    """The seconds of each stage in the first run and in the second, there 0 where it was not made anew."""
    return ", ".join(
        f"{name} {first:.1f} and {0 if digest == after[name][0] else after[name][1]:.1f} s"
        for name, (digest, first) in before.items()
    )


def draw(folder: Path, n: int, *, marked: float = 1.0, seed: int = 0) -> None:
    """n images, a share ``marked`` of them with a defect, and their masks, as a class folder."""
    folder.mkdir(parents=True)
    for start in range(0, n, AT_ONCE):
        generator = torch.Generator().manual_seed(seed + start)
        drawn = draw_surfaces(min(AT_ONCE, n - start), SIZE, generator, marked=marked)
        for k, (image, mask) in enumerate(zip(as_bytes(drawn.images), drawn.masks.numpy(), strict=True), start=start):
            Image.fromarray(image).save(folder / f"{k:06d}.jpg", quality=95)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{k:06d}.png")


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Images (n, 3, H, W) in [0, 1] as (n, H, W, 3) uint8."""
    return (images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


def _move(base: Path, names: list[str]) -> None:
    """Let drawn images join the data: those with a defect as a class of it, the others as defect-free ones."""
    for name in names:
        image, mask = (base / "drawn" / f"{name}{suffix}" for suffix in (".jpg", ".png"))
        target = base / "data" / ("mark" if read_mask(mask).any() else "defect_free")
        target.mkdir(parents=True, exist_ok=True)
        for file in (image, mask):
            shutil.move(file, target)
