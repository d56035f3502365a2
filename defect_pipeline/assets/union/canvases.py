"""What the union's images begin as: pictures, and the masks that say where their defects stand."""

import shutil

from defect_pipeline.assets.masks import BankEntry, read_bank, write_bank
from defect_pipeline.assets.pool import train_pictures
from defect_pipeline.assets.stablesdg.adapt import class_windows
from defect_pipeline.assets.stage import STAGES, Build, chain_settings, materialize, stage, stage_like
from defect_pipeline.assets.union.places import INSTEAD
from defect_pipeline.imaging.sheets import save_png
from defect_pipeline.imaging.subsets import Subset

IMAGES = "images"
BORROWED = ("defect_free_pool", "mask_bank")  # of the first system
OWN = "pictures show their defects"


@stage(
    parents=("inspection_images",),
    settings=lambda pipeline: chain_settings(pipeline, *BORROWED),
    images=Subset(("train",)),
    group="union",
    kinds={"opencv"},
    partitioned=True,
)
def union_canvases(build: Build) -> None:
    """Pictures to paint on and masks to paint: those of the mask bank, or the class's own train pictures with their masks.

    Defect-free pictures are what the first system paints on, and the class's bank is made, or taken from the store, as
    that system makes it: the two then differ in their generators alone. Data without any, on which only the second
    system runs, has annotated pictures to give: these begin with their own defects, and keep their own masks. Both are of
    the train side.
    """
    (build.path / IMAGES).mkdir()
    own = not train_pictures(build.dataset())
    if not own:
        pool, borrowed = (
            materialize(STAGES[name], build.context, build.store, build.pipeline, partition)[0]
            for name, partition in zip(BORROWED, (None, build.defect_class), strict=True)
        )
        bank, strategy = read_bank(borrowed.path), str(borrowed.metadata["strategy"])
        for path in {entry.background for entry in bank}:
            shutil.copyfile(pool.path / path, build.path / path)
    else:
        crops, strategy = class_windows(build, ("train",)), "annotated, on their own pictures"
        for k, crop in enumerate(crops):
            save_png(build.path / _file(k), crop.image)
        n = build.settings.masks.per_class
        bank = [BankEntry(_file(k % len(crops)), crops[k % len(crops)].masks) for k in range(n)]
    write_bank(build, bank, build.path, strategy)
    build.metadata[OWN] = own


union_drivers = stage_like("topological_drivers", INSTEAD, group="union")


def _file(number: int) -> str:
    return f"{IMAGES}/{number:04d}.png"
