"""The filter: of a class's synthetic images those whose defect is to be seen, in its mask, no copy, on the component."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.faithfulness import TWINS, read_twins
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masks import BankEntry, read_bank
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import IMAGES, driver_of, write_coco
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.faithfulness import change, refined_mask
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import component_mask
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.lazy import pd
from defect_pipeline.profiles import Filter

SHEET = 36  # images of a sheet
VERDICTS = "verdicts.parquet"
REASONS = {
    "unseen": "hardly anything changed under the mask",
    "misplaced": "around the mask nearly as much changed as under it",
    "copy": "nearer to a training defect than real ones are to each other",
    "off component": "the mask leaves the component",
}


def sadf_accepted(
    pool: Stage, bank: Stage, images: Stage, faithfulness: Stage, copies: Stage, *, name: str, group: str
) -> Stage:
    """The stage that filters a class's images by their twins and their nearest training defects."""

    @stage(
        name=name,
        parents=(inspection_images, pool, bank, images, faithfulness, copies),
        settings=("filter", "drivers.size"),
        images=Subset(splits=()),
        group=group,
        kinds={"coco"},
        partitioned=True,
    )
    def make(build: Build) -> None:
        """The images of the class that pass the filter, as COCO; every other one with the reason it was left out for."""
        limits, entries = build.settings.filter, read_bank(build.read(bank).path)
        on_component = _on_component(entries, build.read(pool).path)
        twins, nearest = read_twins(build.read(faithfulness).path), read_copies(build.read(copies).path)
        verdicts = judge(twins.merge(nearest, on="image", validate="one_to_one"), on_component, limits)
        verdicts.to_parquet(build.path / VERDICTS)
        kept = verdicts.loc[verdicts["reason"] == "", "image"].tolist()
        counts = {reason: int((verdicts["reason"] == reason).sum()) for reason in REASONS}
        if not kept:
            found = "; ".join(f"{n} x {reason} ({REASONS[reason]})" for reason, n in counts.items() if n)
            raise PipelineError(
                f"No synthetic image of {build.defect_class!r} passed the filter: {found}. Look at the contact sheets of "
                f"{images.name} and {faithfulness.name}; train longer, or loosen the profile's `filter`."
            )
        masks = {one: entries[driver_of(one)].masks for one in kept}
        painted = build.read(images).path / IMAGES
        if limits.refine:
            twin = build.read(faithfulness).path / TWINS
            masks = {one: refined(painted / one, twin / one, instances) for one, instances in masks.items()}
        write_coco(build.path, masks, build.settings.drivers.size, build.classes)
        build.metadata |= {"accepted": len(kept), "images": len(verdicts)}
        build.metadata |= {f"rejected: {reason}": n for reason, n in counts.items()}
        shown = list(masks.items())[:SHEET]
        sheet = [overlay(read_image(painted / one), instances, build.colours) for one, instances in shown]
        build.picture("accepted", contact_sheet(sheet, columns=6))
        rejected = verdicts[verdicts["reason"] != ""][:SHEET]
        if len(rejected):
            pictures = [read_image(painted / one) for one in rejected["image"]]
            build.picture("rejected", contact_sheet(pictures, rejected["reason"].tolist(), columns=6))

    return make


def read_verdicts(directory: Path) -> pd.DataFrame:
    """A row for each image of the class: image, the figures it was judged by, and reason, empty for an accepted one."""
    return pd.read_parquet(directory / VERDICTS)


def judge(table: pd.DataFrame, on_component: list[float], limits: Filter) -> pd.DataFrame:
    """The table with the reason for which each image is left out.

    ``table`` has the figures of twins and of copies, ``on_component`` the share of each driver's mask that lies there.
    """
    table["on_component"] = [on_component[driver_of(name)] for name in table["image"]]
    conditions = {  # the first that holds is the reason
        "off component": table["on_component"] < limits.on_component,
        "copy": table["copy"],
        "unseen": table["inside"] < limits.visible,
        "misplaced": table["ratio_near"] < limits.ratio,
    }
    return table.assign(reason=np.select(list(conditions.values()), list(conditions), default=""))


def refined(image: Path, twin: Path, instances: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """The instances, each shrunk or grown to what is to be seen of it."""
    changed = change(read_image(image), read_image(twin))
    return [(category, refined_mask(changed, mask)) for category, mask in instances]


def _on_component(bank: list[BankEntry], pool: Path) -> list[float]:
    """Of each entry, the share of its mask that lies on the component."""
    return [float(component_mask(read_image(pool / entry.background))[entry.mask()].mean()) for entry in bank]
