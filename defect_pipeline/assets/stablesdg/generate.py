"""Image-oriented generation (paper B §3.3): real train images of a class, noised to T' = s T, painted anew."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import (
    OWN_TRAIN,
    PAINTED,
    image_oriented,
    load_adapted,
    lora_weights,
    token_embedding,
    train_windows,
)
from defect_pipeline.assets.stablesdg.tune import Tuned, strength_and_guidance
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES, is_painted
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, save_png
from defect_pipeline.store import Artifact, atomic_write

SHEET = 36  # images


@dataclass(frozen=True)
class GeneratedImage:
    """The file of an image, and the inspection image that it was painted from, both relative."""

    file: str
    source: str


@dataclass(frozen=True)
class Generated:
    """How a class's images were painted, and what they come from."""

    strength: float
    guidance: float
    sources: int
    images: list[GeneratedImage]


@stage(
    parents=(inspection_images, token_embedding, lora_weights, strength_and_guidance),
    settings=("stablesdg.images", *PAINTED),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def stablesdg_images(build: Build) -> None:
    """Synthetic images of one class, each from a train image of it; resumes where it was killed."""
    settings, dataset, folder = build.settings.stablesdg, build.dataset, build.workdir / IMAGES
    chosen = build.read(strength_and_guidance).load(Tuned).chosen
    sources = train_windows(build)
    names = [f"{n:04d}.png" for n in range(settings.images)]
    folder.mkdir(exist_ok=True)
    todo = [n for n, name in enumerate(names) if not is_painted(folder / name)]
    if todo:
        backbone = load_adapted(build)

        def keep(start: int, images: np.ndarray) -> None:
            for n, image in zip(todo[start:], images, strict=False):
                atomic_write(folder / names[n], partial(save_png, image=image))
            build.progress(start + len(images), len(todo))

        given = [sources[n % len(sources)].image for n in todo]
        image_oriented(build, backbone, given, [names[n] for n in todo], *chosen, on_batch=keep)
    (build.path / IMAGES).mkdir()
    made = []
    for n, name in enumerate(names):
        (build.path / IMAGES / name).write_bytes((folder / name).read_bytes())
        source = sources[n % len(sources)]
        made.append(GeneratedImage(f"{IMAGES}/{name}", str(dataset.images.at[source.image_id, "path"])))
    build.keep(Generated(*chosen, len(sources), made))
    build.metadata |= {"images": len(names), "sources": len(sources)} | chosen._asdict()
    painted = [read_image(build.path / IMAGES / name) for name in names[:SHEET]]
    build.picture("contact sheet", contact_sheet(painted, columns=6))
    pairs = [picture for n, image in enumerate(painted[:12]) for picture in (sources[n % len(sources)].image, image)]
    build.picture("beside their sources", contact_sheet(pairs, ["source", "painted"] * (len(pairs) // 2), columns=6))


def read_generated(artifact: Artifact) -> list[np.ndarray]:
    """The images of a `stablesdg_images` artifact."""
    return [read_image(artifact.path / image.file) for image in artifact.load(Generated).images]
