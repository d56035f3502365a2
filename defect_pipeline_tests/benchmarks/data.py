"""Data: registering a folder of images, and registering it again when some have joined."""

import shutil
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
import torch
from PIL import Image

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Pipeline
from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.store import Store
from defect_pipeline_tests.benchmarks.processes import apart
from defect_pipeline_tests.benchmarks.timing import Row

JOINING, SIZE, AT_ONCE = 10, 128, 100


def registering(n: int, repeats: int) -> Row:
    """The whole stage, with groups and splits, for n drawn images, and for ten more: time and memory."""
    again, first = [], []
    for _ in range(repeats):
        with TemporaryDirectory() as directory:
            base = Path(directory)
            draw(base / "drawn", n + JOINING)
            stems = sorted({path.stem for path in (base / "drawn").iterdir()})
            _move(base, stems[:n])
            first.append(apart(partial(_register, base)))
            _move(base, stems[n:])
            again.append(apart(partial(_register, base)))
    (ours, our_memory), (theirs, their_memory) = (zip(*measured, strict=True) for measured in (again, first))
    return Row(
        f"registering {JOINING} more images, {SIZE} px", n, list(ours), list(theirs), "the first registering of all",
        memory=(max(our_memory), max(their_memory)),
    )  # fmt: skip


def _register(base: Path) -> None:
    resources = {"store": Store(root=str(base / "store")), "pipeline": Pipeline(data=str(base / "data"))}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([inspection_images], resources=resources, instance=instance)


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


def _move(base: Path, stems: list[str]) -> None:
    target = base / "data" / "mark"
    target.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        for suffix in (".jpg", ".png"):
            shutil.move(base / "drawn" / f"{stem}{suffix}", target)
