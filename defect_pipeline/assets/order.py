"""Is the concept worth learning before the condition: paper A, Table 4, #1 against #2, with a tenth of the groups."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from defect_pipeline.assets.concept import backbone_of, learn_concept, load_untouched, prior_latents
from defect_pipeline.assets.drivers import TrainingCrops, make_driver, training_crops
from defect_pipeline.assets.hypernetwork import condition_prompt, learn_condition, new_hypernetwork
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import image_seed, paint, read_canvases
from defect_pipeline.diffusion.adapters import Examples
from defect_pipeline.evaluation.distances import frechet_distance, kernel_distance
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_png
from defect_pipeline.store import atomic_write

ARMS = ("condition only", "concept, then condition")
SEEDS = 3
SHARE = 0.1  # of the train groups with a defect
REPORT = "order.json"


@dataclass(frozen=True)
class Cell:
    """One arm, seed and class: KID and FID to held-out images of images all painted from noise, as the paper's are."""

    seed: int
    arm: str
    defect_class: str
    kid: float
    fid: float
    groups: int  # that the generator learned from
    n: int


@stage(
    parents=("inspection_images", "defect_free_pool", "mask_bank", "topological_drivers"),
    settings=lambda pipeline: (
        pipeline.settings.concept, pipeline.settings.hypernetwork, pipeline.settings.synthesis, pipeline.settings.precision,
        pipeline.settings.drivers, pipeline.settings.extractor, pipeline.settings.extractor_weights, backbone_of(pipeline),
    ),
    group="evaluation",
    kinds={"torch", "diffusers"},
    gpu=True,
)  # fmt: skip
def order_report(build: Build) -> None:
    """Condition only against concept, then condition (paper A, Table 4), a tenth of the groups, as many steps, 3 seeds."""
    cells, shown = [], []
    for seed in range(build.pipeline.seed, build.pipeline.seed + SEEDS):
        for arm in ARMS:
            file = build.workdir / f"{seed} {arm}.json"
            if not file.exists():
                made, pictures = _cell(build, arm, seed)
                atomic_write(file.with_suffix(".png"), partial(save_png, image=pictures))
                atomic_write(file, json.dumps([asdict(cell) for cell in made]).encode())
            cells += [Cell(**cell) for cell in json.loads(file.read_text())]
            shown.append(read_image(file.with_suffix(".png")))
            build.progress(len(shown), SEEDS * len(ARMS))
    (build.path / REPORT).write_text(json.dumps([asdict(cell) for cell in cells]))
    build.metadata["cells"] = [asdict(cell) for cell in cells]
    build.metadata["summary"] = order_summary(cells).to_dict("records")
    build.picture("images", np.vstack(shown))


def read_order(directory: Path) -> list[Cell]:
    """What an `order_report` artifact holds."""
    return [Cell(**cell) for cell in json.loads((directory / REPORT).read_text())]


def order_summary(cells: list[Cell]) -> pd.DataFrame:
    """For each figure: the mean of both arms over seeds and classes, and the mean and standard deviation over seeds of
    what learning the concept first changes. Below zero, it helps."""
    table = pd.DataFrame([asdict(cell) for cell in cells])
    rows = []
    for figure in ("kid", "fid"):
        by_seed = table.pivot_table(index="seed", columns="arm", values=figure, aggfunc="mean")
        change = by_seed[ARMS[1]] - by_seed[ARMS[0]]
        rows.append(
            {"figure": figure, **{arm: float(by_seed[arm].mean()) for arm in ARMS},
             "difference": float(change.mean()), "std": float(change.std()), "seeds": len(change)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def chosen_groups(dataset: Dataset, share: float, seed: int) -> set[str]:
    """A random share of the train groups that show a defect, and at least one of every class."""
    train = dataset.images[(dataset.images["split"] == "train") & (dataset.images["defect_class"] != "")]
    rng = np.random.default_rng(seed)
    order = rng.permutation(sorted(train["group"].unique())).tolist()
    chosen = order[: max(1, round(share * len(order)))]
    for category in dataset.categories:
        having = set(train.loc[[i for i in dataset.of_class(category) if i in train.index], "group"])
        if having and not having & set(chosen):
            chosen.append(next(group for group in order if group in having))
    return set(chosen)


def _cell(build: Build, arm: str, seed: int) -> tuple[list[Cell], np.ndarray]:
    """Learn and judge one arm with one seed: a cell for each class, and a row with two images of each."""
    dataset, backbone = build.dataset(), load_untouched(build)
    groups = chosen_groups(dataset, SHARE, seed)
    crops = _examples(build, groups)
    learned = Examples.of(
        backbone, crops.images, crops.drivers, crops.masks, [condition_prompt(build, k) for k in crops.classes]
    )
    concept_steps, steps = build.settings.concept.steps, build.settings.hypernetwork.steps
    if arm == ARMS[1]:
        learn_concept(build, backbone, learned, prior_latents(build, backbone), name=f"{seed} concept", seed=seed)
    else:
        steps += concept_steps  # the same number of optimizer steps in both arms
    hypernetwork = new_hypernetwork(build, backbone, seed)
    learn_condition(build, backbone, hypernetwork, learned, steps, name=f"{seed} {arm}", seed=seed)

    extractor, cells, pictures = extractor_of(build), [], []
    for k in build.classes():
        canvases = read_canvases(build, k)
        seeds = [image_seed(seed, k, f"order/{n}") for n in range(len(canvases.drivers))]
        real = real_features(build, extractor, k, HELD_OUT)
        images = paint(build, backbone, hypernetwork, canvases, seeds, from_noise=True)
        features = extractor.features(images)
        kid, fid = kernel_distance(real, features), frechet_distance(real, features)
        cells.append(Cell(seed, arm, k, kid, fid, len(groups), len(images)))
        pictures += list(images[:2])
    return cells, np.hstack(pictures)


def _examples(build: Build, groups: set[str]) -> TrainingCrops:
    """Training crops of the groups' train images."""
    dataset = build.dataset()
    allowed = set(dataset.images.index[dataset.images["group"].isin(groups) & (dataset.images["split"] == "train")])
    crops = [
        (k, crop)
        for k in build.classes()
        for crop in training_crops(build, [i for i in dataset.of_class(k) if i in allowed], k)
    ]
    return TrainingCrops(
        torch.from_numpy(np.stack([crop.image for _, crop in crops])),
        torch.from_numpy(np.stack([make_driver(build, crop.image, crop.masks) for _, crop in crops])),
        torch.from_numpy(np.stack([crop.mask() for _, crop in crops])),
        [k for k, _ in crops],
    )
