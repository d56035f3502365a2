"""What the union's images begin as: pictures, and the masks that say where their defects stand."""

import shutil
from dataclasses import dataclass

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masks import BankEntry, mask_bank, read_bank, write_bank
from defect_pipeline.assets.pool import defect_free_pool, train_pictures
from defect_pipeline.assets.stablesdg.adapt import train_windows
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.imaging.sheets import save_png
from defect_pipeline.imaging.subsets import Subset

IMAGES = "images"


@dataclass(frozen=True)
class Canvassed:
    """Whether the pictures are a class's own, which show their defects."""

    own: bool


@stage(
    parents=(inspection_images,),
    settings=("masks.per_class", "drivers.size"),
    makes=(defect_free_pool, mask_bank),
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
    own = not train_pictures(build.dataset)
    if not own:
        first = build.chain()
        pool, borrowed = first.make_one(defect_free_pool, None), first.make_one(mask_bank, build.defect_class)
        bank, strategy = read_bank(borrowed.path), str(borrowed.metadata["strategy"])
        for path in {entry.background for entry in bank}:
            shutil.copyfile(pool.path / path, build.path / path)
    else:
        crops, strategy = train_windows(build), "annotated, on their own pictures"
        for k, crop in enumerate(crops):
            save_png(build.path / _file(k), crop.image)
        n = build.settings.masks.per_class
        bank = [BankEntry(_file(k % len(crops)), crops[k % len(crops)].masks) for k in range(n)]
    write_bank(build, bank, build.path, strategy)
    build.keep(Canvassed(own))
    build.metadata["pictures show their defects"] = own


def _file(number: int) -> str:
    return f"{IMAGES}/{number:04d}.png"
