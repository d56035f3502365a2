"""The SADF sets of all classes, gated once more and joined into one COCO data set."""

import json
import shutil

import dagster as dg
import numpy as np

from defect_pipeline.assets.fid import Report, gate_problems
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.imaging.crops import defect_crops
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay


@stage(
    parents=("inspection_images", "mask_bank", "sadf_images", "fid_report"),
    settings=lambda pipeline: pipeline.settings.thresholds,
    group="synthesis",
    kinds={"coco"},
)
def sadf_coco(build: Build) -> None:
    """One COCO data set of all classes. Looks at every class's FID report again and refuses what its gate refuses."""
    problems = []
    for k in build.classes():
        report = Report.read(build.parent("fid_report", k).path)
        problems += [f"{k}: {problem}" for problem in gate_problems(report, *build.settings.thresholds.of(k))]
    if problems:
        raise dg.Failure(
            f"{'; '.join(problems)}. Look at the contact sheets of sadf_images; train longer, add images of the class, or "
            "change its threshold in the profile.",
            allow_retries=False,
        )
    (build.path / IMAGES).mkdir()
    merged: dict = {"images": [], "annotations": []}
    for k in build.classes():
        part = build.parent("sadf_images", k).path
        coco = json.loads((part / "annotations.json").read_text())
        first_image, first_annotation = len(merged["images"]), len(merged["annotations"])
        for image in coco["images"]:
            source = part / image["file_name"]
            image |= {
                "id": image["id"] + first_image,
                "file_name": f"{IMAGES}/{build.classes().index(k)}_{source.name}",
            }
            image["defect_class"] = k
            shutil.copyfile(source, build.path / image["file_name"])
        for annotation in coco["annotations"]:
            annotation |= {"id": annotation["id"] + first_annotation, "image_id": annotation["image_id"] + first_image}
        merged["images"] += coco["images"]
        merged["annotations"] += coco["annotations"]
    merged |= {
        "info": {"description": "Synthetic defects (SADF)", "seed": build.pipeline.seed},
        "categories": coco["categories"],
    }
    (build.path / "annotations.json").write_text(json.dumps(merged))
    build.metadata |= {"images": len(merged["images"]), "instances": len(merged["annotations"])}
    build.picture("contact sheet", _overview(build))


def _overview(build: Build) -> np.ndarray:
    """A row for each class: three real crops, four synthetic images, and these with the masks they were asked for."""
    dataset, size, colours = build.dataset(), build.settings.drivers.size, class_colours(build.classes())
    pictures, captions = [], []
    for k in build.classes():
        train = [i for i in dataset.of_class(k) if dataset.images.at[i, "split"] == "train"][:3]
        real = [crop.image for crop in defect_crops(dataset, train, k, size, per_image=1, zoom=1.0, seed=0)]
        part, bank = build.parent("sadf_images", k).path, read_bank(build.parent("mask_bank", k).path)[:4]
        painted = [read_image(part / IMAGES / f"{n:04d}_00.png") for n in range(len(bank))]
        asked = [overlay(image, entry.masks, colours) for image, entry in zip(painted, bank, strict=True)]
        row = [*real, *[np.full_like(painted[0], 255)] * (3 - len(real)), *painted, *asked]
        pictures += row
        captions += [f"{k}: real"] * 3 + ["synthetic"] * len(painted) + ["mask asked for"] * len(asked)
    return contact_sheet(pictures, captions, columns=11)
