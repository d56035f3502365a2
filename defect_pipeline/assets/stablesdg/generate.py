"""Image-oriented generation (paper B §3.3): real train images of a class, noised to T' = s T, painted anew."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from defect_pipeline.assets.stablesdg.adapt import (
    OWN_TRAIN,
    class_windows,
    image_oriented,
    load_adapted,
    painted_with,
)
from defect_pipeline.assets.stablesdg.tune import Choice
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES, is_painted
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, save_png
from defect_pipeline.store import atomic_write

TABLE = "images.json"
SHOWN = 36


@stage(
    parents=("inspection_images", "token_embedding", "lora_weights", "strength_and_guidance"),
    settings=lambda pipeline: (
        pipeline.settings.stablesdg.images, pipeline.settings.stablesdg.prompt, *painted_with(pipeline)
    ),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def stablesdg_images(build: Build) -> None:
    """Synthetic images of one class, each from a train image of it; resumes where it was killed."""
    settings, dataset, folder = build.settings.stablesdg, build.dataset(), build.workdir / IMAGES
    chosen = Choice.read(build.parent("strength_and_guidance").path)
    sources = class_windows(build, ("train",))
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
    rows = []
    for n, name in enumerate(names):
        (build.path / IMAGES / name).write_bytes((folder / name).read_bytes())
        source = sources[n % len(sources)]
        rows.append({"file": f"{IMAGES}/{name}", "source": str(dataset.images.at[source.image_id, "path"])})
    (build.path / TABLE).write_text(json.dumps(rows))
    build.metadata |= {"images": len(names), "sources": len(sources)} | chosen._asdict()
    made = read_generated(build.path)
    build.picture("contact sheet", contact_sheet(made[:SHOWN], columns=6))
    pairs = [picture for n, image in enumerate(made[:12]) for picture in (sources[n % len(sources)].image, image)]
    build.picture("beside their sources", contact_sheet(pairs, ["source", "painted"] * (len(pairs) // 2), columns=6))


def read_rows(directory: Path) -> list[dict[str, str]]:
    """Of each image of a `stablesdg_images` artifact its file and the image it comes from."""
    return json.loads((directory / TABLE).read_text())


def read_generated(directory: Path) -> list[np.ndarray]:
    """The images of a `stablesdg_images` artifact."""
    return [read_image(directory / row["file"]) for row in read_rows(directory)]
