"""Mask strategies side by side: perturbed annotated masks (i) and those of a shape model (iii)."""

import json
from itertools import islice
from pathlib import Path

import numpy as np

from defect_pipeline import evaluation
from defect_pipeline.assets.references import HELD_OUT, real_crops
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.imaging.masks import Vary, like_annotated
from defect_pipeline.imaging.shapes import ShapeModel, mirrored, on_grid
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

REPORT = "report.json"
MADE = 200  # shapes of each strategy
SHOWN = 12


@stage(
    parents=("inspection_images",),
    settings=lambda pipeline: (pipeline.settings.drivers, pipeline.settings.masks.sizes),
    images=Subset(shows="own class", classes="shown"),
    group="evaluation",
    kinds={"opencv"},
    partitioned=True,
)
def shape_report(build: Build) -> None:
    """How like held-out masks those of strategies (i) and (iii) are, and how new, beside the annotated train masks."""
    known, held_out = (_instances(build, splits) for splits in (("train",), HELD_OUT))
    strategies: dict[str, Vary] = {
        "annotated": lambda mask, rng: mask,
        "perturbed": like_annotated(build.settings.masks.sizes),
        "shape model": ShapeModel.fit(known).vary,
    }
    rng, grid = np.random.default_rng(build.pipeline.seed), [s for mask in known for s in mirrored(on_grid(mask))]
    rows, pictures = [], []
    for name, vary in strategies.items():
        made = [vary(known[k % len(known)], rng) for k in range(max(MADE, len(known)))]
        new = evaluation.shapes.novelty([on_grid(mask) for mask in made], grid)
        apart = evaluation.shapes.distances(made, held_out)
        rows.append({"strategy": name, **apart, "novelty": new, "n": len(made), "real": len(held_out)})
        pictures += [np.dstack([on_grid(mask).astype(np.uint8) * 255] * 3) for mask in islice(made, SHOWN)]
    (build.path / REPORT).write_text(json.dumps(rows))
    build.metadata["strategies"] = rows
    captions = [name for name in strategies for _ in range(SHOWN)]
    build.picture("shapes", contact_sheet(pictures, captions, columns=SHOWN, cell=96))


def read_strategies(directory: Path) -> list[dict]:
    """What a `shape_report` artifact says: a row for each strategy."""
    return json.loads((directory / REPORT).read_text())


def _instances(build: Build, splits: tuple[str, ...]) -> list[np.ndarray]:
    """The instances of the class in crops of these splits' images."""
    crops = real_crops(build, build.defect_class, splits)
    return [mask for crop in crops for name, mask in crop.masks if name == build.defect_class]
