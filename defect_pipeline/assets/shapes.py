"""Mask strategies side by side: perturbed annotated masks (i) and those of a shape model (iii)."""

from itertools import islice

import numpy as np

from defect_pipeline import evaluation
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.references import HELD_OUT, real_crops
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.masks import Vary, like_annotated
from defect_pipeline.imaging.shapes import ShapeModel, mirrored, on_grid
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.profiles import Drivers

MADE = 200  # shapes of each strategy
EACH = 12  # shown


@stage(
    parents=(inspection_images,),
    settings=("drivers", "masks.sizes"),
    images=Subset(shows="own class", classes="shown"),
    group="evaluation",
    kinds={"opencv"},
    partitioned=True,
)
def shape_report(build: Build) -> None:
    """How like held-out masks those of strategies (i) and (iii) are, and how new, beside the annotated train masks."""
    known, held_out = (
        _instances(build.dataset, build.defect_class, splits, build.settings.drivers, build.seed)
        for splits in (("train",), HELD_OUT)
    )
    strategies: dict[str, Vary] = {
        "annotated": lambda mask, rng: mask,
        "perturbed": like_annotated(build.settings.masks.sizes),
        "shape model": ShapeModel.fit(known).vary,
    }
    rng, grid = np.random.default_rng(build.seed), [s for mask in known for s in mirrored(on_grid(mask))]
    rows, pictures = [], []
    for name, vary in strategies.items():
        made = [vary(known[k % len(known)], rng) for k in range(max(MADE, len(known)))]
        new = evaluation.shapes.novelty([on_grid(mask) for mask in made], grid)
        apart = evaluation.shapes.distances(made, held_out)
        rows.append({"strategy": name, **apart, "novelty": new, "n": len(made), "real": len(held_out)})
        pictures += [np.dstack([on_grid(mask).astype(np.uint8) * 255] * 3) for mask in islice(made, EACH)]
    build.keep(rows)
    build.metadata["strategies"] = rows
    captions = [name for name in strategies for _ in range(EACH)]
    build.picture("shapes", contact_sheet(pictures, captions, columns=EACH, cell=96))


def _instances(
    dataset: Dataset, defect_class: str, splits: tuple[str, ...], drivers: Drivers, seed: int
) -> list[np.ndarray]:
    """The instances of a class in crops of these splits' images."""
    crops = real_crops(dataset, defect_class, splits, drivers, seed)
    return [mask for crop in crops for name, mask in crop.masks if name == defect_class]
