"""The filter: of a class's synthetic images those whose defect is to be seen, in its mask, no copy, on the component."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.faithfulness import TWINS, read_twins
from defect_pipeline.assets.masks import BankEntry, read_bank
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES, driver_of, write_coco
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.faithfulness import change, refined_mask
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import component_mask
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.lazy import pd

VERDICTS = "verdicts.parquet"
REASONS = {
    "unseen": "hardly anything changed under the mask",
    "misplaced": "around the mask nearly as much changed as under it",
    "copy": "nearer to a training defect than real ones are to each other",
    "off component": "the mask leaves the component",
}


@stage(
    parents=("inspection_images", "defect_free_pool", "mask_bank", "sadf_images", "faithfulness_report", "copy_report"),
    settings=lambda pipeline: pipeline.settings.filter,
    images=Subset(splits=()),
    group="synthesis",
    kinds={"coco"},
    partitioned=True,
)
def sadf_accepted(build: Build) -> None:
    """The images of the class that pass the filter, as COCO; every other one with the reason it was left out for."""
    bank = read_bank(build.parent("mask_bank").path)
    verdicts = _verdicts(build, bank)
    verdicts.to_parquet(build.path / VERDICTS)
    kept = verdicts.loc[verdicts["reason"] == "", "image"].tolist()
    counts = {reason: int((verdicts["reason"] == reason).sum()) for reason in REASONS}
    if not kept:
        told = "; ".join(f"{n} x {reason} ({REASONS[reason]})" for reason, n in counts.items() if n)
        raise PipelineError(
            f"No synthetic image of {build.defect_class!r} passed the filter: {told}. Look at the contact sheets of "
            f"{build.named('sadf_images')} and {build.named('faithfulness_report')}; train longer, or loosen the profile's "
            "`filter`."
        )
    masks = {name: bank[driver_of(name)].masks for name in kept}
    if build.settings.filter.refine:
        masks = {name: _refined(build, name, instances) for name, instances in masks.items()}
    write_coco(build, masks)
    build.metadata |= {"accepted": len(kept), "images": len(verdicts)}
    build.metadata |= {f"rejected: {reason}": n for reason, n in counts.items()}
    _show(build, verdicts, masks)


def read_verdicts(directory: Path) -> pd.DataFrame:
    """A row for each image of the class: image, the figures it was judged by, and reason, empty for an accepted one."""
    return pd.read_parquet(directory / VERDICTS)


def _verdicts(build: Build, bank: list[BankEntry]) -> pd.DataFrame:
    limits = build.settings.filter
    twins, _ = read_twins(build.parent("faithfulness_report").path)
    copies, _ = read_copies(build.parent("copy_report").path)
    table = twins.merge(copies, on="image", validate="one_to_one")
    pool = build.parent("defect_free_pool").path
    on_component = [float(component_mask(read_image(pool / entry.background))[entry.mask()].mean()) for entry in bank]
    table["on_component"] = [on_component[driver_of(name)] for name in table["image"]]
    conditions = {  # the first that holds is the reason
        "off component": table["on_component"] < limits.on_component,
        "copy": table["copy"],
        "unseen": table["inside"] < limits.visible,
        "misplaced": table["ratio_near"] < limits.ratio,
    }
    return table.assign(reason=np.select(list(conditions.values()), list(conditions), default=""))


def _refined(build: Build, name: str, instances: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """The instances, each shrunk or grown to what is to be seen of it."""
    image = read_image(build.parent("sadf_images").path / IMAGES / name)
    changed = change(image, read_image(build.parent("faithfulness_report").path / TWINS / name))
    return [(category, refined_mask(changed, mask)) for category, mask in instances]


def _show(build: Build, verdicts: pd.DataFrame, masks: dict[str, list[tuple[str, np.ndarray]]]) -> None:
    """A sheet of accepted images with their labels, and one of rejected ones with their reasons."""
    painted, colours = build.parent("sadf_images").path / IMAGES, build.colours()
    accepted = [overlay(read_image(painted / name), instances, colours) for name, instances in list(masks.items())[:36]]
    build.picture("accepted", contact_sheet(accepted, columns=6))
    rejected = verdicts[verdicts["reason"] != ""][:36]
    if len(rejected):
        pictures = [read_image(painted / name) for name in rejected["image"]]
        build.picture("rejected", contact_sheet(pictures, rejected["reason"].tolist(), columns=6))
