"""Is the synthetic set worth anything to a detector: paper A, Tables 1 and 2, beside baselines, over seeds.

A cell is one arm, one share of the annotated groups and one seed. Its generator, and every baseline, has seen the
groups of that share alone. All arms of a share take the same optimizer steps, and all arms of a seed are measured on the
same test images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from defect_pipeline import recognition
from defect_pipeline.assets.coco import UNFILTERED, read_coco
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.experiments.rows import keep_table, table_stage
from defect_pipeline.assets.experiments.shares import SEEDS, chain_of, train_groups
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.segmentation import annotated, joined, judged_on, training_windows, validation_images
from defect_pipeline.assets.stage import Build, Chain, Stage, stage
from defect_pipeline.evaluation.segmentation import group_resamples, resampled_map, segmentation_figures
from defect_pipeline.imaging.coco import Annotated
from defect_pipeline.imaging.copy_paste import copy_pasted
from defect_pipeline.imaging.crops import groups_of, whole
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import decode, encode
from defect_pipeline.imaging.sheets import bars_and_gains
from defect_pipeline.lazy import pd

if TYPE_CHECKING:
    from defect_pipeline.recognition.segmentor import Prediction

ARMS: dict[str, tuple[tuple[str, float], ...]] = {  # the data of each training stage, and its share of the steps
    "real": (("real", 1.0),),
    "real, strongly augmented": (("real", 1.0),),
    "copy-paste, then real": (("copy-paste", 0.5), ("real", 0.5)),
    "synthetic": (("synthetic", 1.0),),
    "synthetic unfiltered, then real": (("synthetic unfiltered", 0.5), ("real", 0.5)),
    "synthetic, then real": (("synthetic", 0.5), ("real", 0.5)),
    "synthetic mixed with real": (("mixed", 1.0),),
}
OF_REAL = {"real": 1.0, "mixed": 0.5}  # share of a source's images
STRONG = "real, strongly augmented"
RESAMPLES = 200
SEEN = "detections.json"


@dataclass(frozen=True)
class Cell:
    arm: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.arm} (seed {self.seed})".replace(",", "")  # commas part keys on command lines


CELLS = {cell.key: cell for cell in (Cell(arm, seed) for seed, arm in product(SEEDS, ARMS))}


def tables(masked: Masked, chain: Sequence[Stage]) -> tuple[Stage, Stage, Stage, Stage]:
    """The stages of Table 1 and 2, each behind that of its cells, which make the ``chain`` from their share."""

    cells_stage = partial(
        stage, parents=(inspection_images,), settings=("segmentor", "downstream", "splits", "drivers.size"),
        makes=tuple(chain), group="experiments", kinds={"torch", "coco"}, version="4", cells=tuple(CELLS), gpu=True,
    )  # fmt: skip

    @cells_stage()
    def table_1_cell(build: Build) -> None:
        """One arm and seed with all groups: a segmentor, what it was trained on, and what it sees in the test images."""
        _measure(build, "100%", masked)

    @cells_stage()
    def table_2_cell(build: Build) -> None:
        """One arm and seed with a tenth of the groups: a segmentor, what it was trained on, and what it sees."""
        _measure(build, "10%", masked)

    @table_stage(inspection_images, table_1_cell)
    def table_1(build: Build) -> None:
        """All groups: each arm's figures over seeds, and what it gains over real images alone, by group bootstrap."""
        _tabulate(build, "100%", table_1_cell)

    @table_stage(inspection_images, table_2_cell)
    def table_2(build: Build) -> None:
        """A tenth of the groups: each arm's figures over seeds, and what it gains over real images alone."""
        _tabulate(build, "10%", table_2_cell)

    return table_1_cell, table_1, table_2_cell, table_2


def _measure(build: Build, share: str, masked: Masked) -> None:
    cell = CELLS[build.partition or ""]
    chain = chain_of(build, share, cell.seed)
    dataset = chain.dataset
    sources = _sources({"real", *(name for name, _ in ARMS[cell.arm])}, chain, masked, build.settings.drivers.size)
    settings, size = build.settings.segmentor, build.settings.drivers.size
    steps = max(build.settings.downstream.steps, settings.steps_for(len(sources["real"][0])))
    stages = [(name, round(steps * part)) for name, part in ARMS[cell.arm]]
    categories = build.classes
    model = recognition.learning.new_segmentor(
        len(categories), size, settings, seed=cell.seed, device=build.settings.device
    )
    recognition.learning.train_stages(
        model, stages, sources, settings, seed=cell.seed, workdir=build.workdir, name="arm",
        judge=judged_on(validation_images(build.dataset, size), categories), strong=cell.arm == STRONG,
        progress=build.progress,
    )  # fmt: skip

    crops = [whole(dataset, i, size) for i in dataset.of_split("test")]
    images, truth = annotated(dataset, crops)
    seen = recognition.segmentor.predict(model, images)
    groups = groups_of(dataset, crops)
    counts: dict[str, float] = {f"{name} images": len(images) for name, (images, _) in sources.items()}
    real_steps = sum(steps * OF_REAL.get(name, 0) for name, steps in stages)
    counts["each real image seen"] = real_steps * settings.batch / counts["real images"]
    counts["steps"] = steps
    counts["groups"] = len(train_groups(dataset))
    figures = asdict(segmentation_figures(truth, seen, dataset.categories)) | counts
    build.keep(asdict(cell) | figures)
    (build.path / SEEN).write_text(json.dumps([_packed(t, p, g) for t, p, g in zip(truth, seen, groups, strict=True)]))
    build.metadata |= {name: value for name, value in figures.items() if not isinstance(value, dict)}


def _sources(names: set[str], chain: Chain, masked: Masked, size: int) -> dict[str, Annotated]:
    """The images of each kind and their instances, with the same defect-free images among them."""
    dataset, joint = chain.dataset, chain.read(masked.joined).path
    defects, negatives = training_windows(dataset, size)
    kinds: dict[str, Callable[[], Annotated]] = {
        "real": lambda: defects,
        "copy-paste": lambda: _copy_pasted(chain, masked),
        "synthetic": lambda: read_coco(joint, dataset.categories),
        "synthetic unfiltered": lambda: read_coco(joint, dataset.categories, UNFILTERED),
    }
    sources = {name: joined(made(), negatives) for name, made in kinds.items() if name in names}
    if "mixed" in names:
        real, synthetic = sources["real"], joined(kinds["synthetic"](), negatives)
        sources["mixed"] = joined(synthetic, _repeated(real, len(synthetic[0])))
    return sources


def _repeated(data: Annotated, n: int) -> Annotated:
    """n images: all of them over and over."""
    images, instances = data
    return [images[i % len(images)] for i in range(n)], [instances[i % len(images)] for i in range(n)]


def _copy_pasted(chain: Chain, masked: Masked) -> Annotated:
    """As many images as the synthetic set has, of train defects on the same backgrounds."""
    images: list[np.ndarray] = []
    instances: list[list[tuple[int, np.ndarray]]] = []
    pool = chain.read(masked.pool).path
    for number, k in enumerate(chain.dataset.categories):
        backgrounds = [read_image(pool / e.background) for e in read_bank(chain.read(masked.bank, k).path)]
        crops = read_training({k: chain.read(masked.drivers, k).path})
        pasted, masks = copy_pasted(crops.images, crops.masks, backgrounds, chain.pipeline.seed)
        images += pasted
        instances += [[(number, mask)] for mask in masks]
    return images, instances


# --- Tables --------------------------------------------------------------------------------------------------------


def _tabulate(build: Build, share: str, measured_by: Stage) -> None:
    name, measured, resampled = build.stage.name, [], {}
    for number, (key, cell) in enumerate(CELLS.items(), start=1):
        artifact = build.read(measured_by, key)
        measured.append(artifact.load(dict[str, Any]))
        truth, seen, groups = _unpacked(json.loads((artifact.path / SEEN).read_text()))
        chosen = group_resamples(groups, RESAMPLES, cell.seed)  # the same in every arm: paired
        resampled[cell] = resampled_map(truth, seen, len(build.classes), chosen)
        build.progress(number, len(CELLS))
    cells = pd.DataFrame(measured)
    table = _compared(cells, resampled)
    keep_table(build, name, table, cells.drop(columns="segm_ap_by_class"))
    by_arm = cells.pivot(index="arm", columns="seed", values="segm_map").loc[list(ARMS)]
    gains = table[["gain", "gain low", "gain high"]].to_numpy()
    titles = f"segm mAP, {share} of the groups, by seed", "gain over real alone, 95 % CI"
    build.picture(name, bars_and_gains(list(ARMS), by_arm.to_numpy(), gains, titles))


def _compared(cells: pd.DataFrame, resampled: dict[Cell, np.ndarray]) -> pd.DataFrame:
    real, rows = cells[cells["arm"] == "real"].set_index("seed"), []
    for arm in ARMS:
        own = cells[cells["arm"] == arm].set_index("seed")
        row: dict[str, float | str] = {"arm": arm}
        for figure in ("segm_map", "segm_ap50", "bbox_map", "iou", "hd", "strict_iou", "strict_hd95"):
            row |= {figure: own[figure].mean(), f"{figure} std": own[figure].std()}
        row |= {f"segm_ap, {k}": value for k, value in pd.DataFrame(own["segm_ap_by_class"].tolist()).mean().items()}
        gains = own["segm_map"] - real["segm_map"]
        differences = np.array([resampled[Cell(arm, s)] - resampled[Cell("real", s)] for s in SEEDS])
        low, high = np.nanquantile(np.nanmean(differences, axis=0), (0.025, 0.975))
        row |= {"gain": gains.mean(), "gain std": gains.std(), "gain low": low, "gain high": high}
        row |= {name: own[name].mean() for name in ("steps", "each real image seen", "real images", "groups")}
        rows.append(row | {"seeds": len(own), "test images": own["n_images"].mean()})
    return pd.DataFrame(rows)


# --- Detections on disk --------------------------------------------------------------------------------------------


def _packed(truth: list[tuple[int, np.ndarray]], seen: Prediction, group: str) -> dict:
    return {
        "group": group,
        "size": list(seen.masks.shape[1:]),
        "truth": [(k, encode(mask)) for k, mask in truth],
        "masks": [encode(mask) for mask in seen.masks],
        "boxes": seen.boxes.tolist(), "scores": seen.scores.tolist(), "labels": seen.labels.tolist(),
    }  # fmt: skip


def _unpacked(packed: list[dict]) -> tuple[list[list[tuple[int, np.ndarray]]], list[Prediction], list[str]]:
    truth, seen = [], []
    for image in packed:
        height, width = image["size"]
        truth.append([(k, decode(counts, height, width)) for k, counts in image["truth"]])
        masks = [decode(counts, height, width) for counts in image["masks"]]
        seen.append(
            recognition.segmentor.Prediction(
                np.array(masks, bool).reshape(-1, height, width),
                np.array(image["boxes"], np.float32).reshape(-1, 4),
                np.array(image["scores"], np.float32),
                np.array(image["labels"], np.int64),
            )
        )
    return truth, seen, [image["group"] for image in packed]
