"""Defect-free images → the augmented pool that synthetic defects are painted on (paper A §3.4)."""

from defect_pipeline import imaging
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, save_png
from defect_pipeline.imaging.subsets import Subset

IMAGES = "images"


@stage(
    parents=(inspection_images,),
    settings=("pool", "drivers.size", "drivers.zoom"),
    images=lambda settings, seed: Subset(("train",), "no defect", "shown", most=settings.pool.images, seed=seed),
    group="data",
    kinds={"opencv"},
)
def defect_free_pool(build: Build) -> None:
    """Ten offline augmentations of defect-free train images each: crop, zoom, roto-translation, noise, contrast."""
    settings, dataset, drivers = build.settings.pool, build.dataset, build.settings.drivers
    ids = train_pictures(dataset)
    if not ids:
        raise PipelineError(
            f"There are no defect-free images under {dataset.root}: synthesis paints on them. Add images without a defect "
            "(a defect_free folder, images without annotations, or a class folder whose masks are all empty)."
        )
    (build.path / IMAGES).mkdir()
    for done, image_id in enumerate(ids):
        seed = dataset.seed(image_id) + build.seed
        views = imaging.augment.variants(
            dataset.image(image_id), drivers.size, n=settings.variants, seed=seed % 2**32, zoom=(1.0, drivers.zoom)
        )
        for j, view in enumerate(views):
            save_png(build.path / IMAGES / f"{done:04d}_{j:02d}.png", view)
        build.progress(done + 1, len(ids))
    files = sorted((build.path / IMAGES).glob("*.png"))
    build.metadata |= {"images used": len(ids), "pool": len(files)}
    sources, others = files[:: settings.variants][:6], files[1 : settings.variants][:6]
    captions = ["source"] * len(sources) + ["variant of the first"] * len(others)
    shown = [*sources, *others]
    build.picture("pool", contact_sheet([read_image(file) for file in shown], captions, columns=6))


def train_pictures(dataset: Dataset) -> list[int]:
    """Ids of the defect-free images on the train side."""
    return [i for i in dataset.defect_free() if dataset.images.at[i, "split"] == "train"]
