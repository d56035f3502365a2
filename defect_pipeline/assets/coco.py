"""The SADF sets of all classes, gated once more and joined into one COCO data set."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from defect_pipeline.assets.fid import Report, gate_problems, whole_set
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.files import content_digest
from defect_pipeline.imaging.crops import defect_crops
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import decode
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset

FILTERED, UNFILTERED = "annotations.json", "annotations_unfiltered.json"
Annotated = tuple[list[np.ndarray], list[list[tuple[int, np.ndarray]]]]  # images, and the instances of each


@stage(
    parents=("inspection_images", "sadf_images", "sadf_accepted", "fid_report"),
    settings=lambda pipeline: [pipeline.settings.thresholds.over_classes(name) for name in ("kid", "fid")],
    images=Subset(("train",), "defects"),
    group="synthesis",
    kinds={"coco"},
)
def sadf_coco(build: Build) -> None:
    """One COCO data set of all classes, filtered and unfiltered. Looks at every class's gate again and keeps to it."""
    problems = []
    for k in build.classes():
        report = Report.read(build.parent("fid_report", k).path)
        problems += [f"{k}: {problem}" for problem in gate_problems(report.held_out, build.settings.thresholds.of(k))]
    if problems:
        raise dg.Failure(
            f"{'; '.join(problems)}. Look at the contact sheets of {build.named('sadf_images')}; train longer, add images of "
            "the class, or change its thresholds (--thresholds FILE).",
            allow_retries=False,
        )
    (build.path / IMAGES).mkdir()
    for k in build.classes():
        for source in sorted((build.parent("sadf_images", k).path / IMAGES).glob("*.png")):
            shutil.copyfile(source, build.path / _file_name(build, k, source.name))
    for file, stage_name in ((FILTERED, "sadf_accepted"), (UNFILTERED, "sadf_images")):
        merged = _merged(build, stage_name)
        (build.path / file).write_text(json.dumps(merged))
        build.metadata |= {f"{file}: {what}": len(merged[what]) for what in ("images", "annotations")}
    fid, synthetic, real = whole_set([build.parent("fid_report", k).path for k in build.classes()])
    build.metadata |= {"FID, all classes together": fid, "of synthetic images": synthetic, "to real crops": real}
    build.metadata["content"] = content_digest(build.path)  # a gate or a figure that changed trains no segmentor anew
    build.picture("contact sheet", _overview(build))


def _merged(build: Build, stage_name: str) -> dict:
    """The COCO documents that a stage made of the classes as one."""
    merged: dict = {
        "info": {"description": f"Synthetic defects: {build.named('sadf_images')}", "seed": build.pipeline.seed},
        "images": [],
        "annotations": [],
    }
    for k in build.classes():
        part = json.loads((build.parent(stage_name, k).path / "annotations.json").read_text())
        first_image, first_annotation = len(merged["images"]), len(merged["annotations"])
        merged["categories"] = part["categories"]
        merged["images"] += [
            image
            | {
                "id": image["id"] + first_image,
                "file_name": _file_name(build, k, Path(image["file_name"]).name),
                "defect_class": k,
            }
            for image in part["images"]
        ]
        merged["annotations"] += [
            entry | {"id": entry["id"] + first_annotation, "image_id": entry["image_id"] + first_image}
            for entry in part["annotations"]
        ]
    return merged


def _file_name(build: Build, defect_class: str, name: str) -> str:
    """Where a class's image lies in the joined set."""
    return f"{IMAGES}/{build.classes().index(defect_class)}_{name}"


def painted_name(image: Mapping[str, Any]) -> str:
    """The file name that an image of the joined set had in its class's `sadf_images`."""
    return Path(image["file_name"]).name.split("_", 1)[1]


def _overview(build: Build) -> np.ndarray:
    """A row for each class: three real crops, four accepted images, and these with their masks."""
    dataset, size, colours = build.dataset(), build.settings.drivers.size, build.colours()
    pictures, captions = [], []
    images, instances = read_coco(build.path, build.classes())
    for number, k in enumerate(build.classes()):
        train = [i for i in dataset.of_class(k) if dataset.images.at[i, "split"] == "train"][:3]
        real = [crop.image for crop in defect_crops(dataset, train, k, size, per_image=1, zoom=1.0, seed=0)]
        own = [i for i, found in enumerate(instances) if any(category == number for category, _ in found)][:4]
        labelled = [overlay(images[i], [(k, mask) for _, mask in instances[i]], colours) for i in own]
        blank = np.full((size, size, 3), 255, np.uint8)
        for row, columns, caption in (
            (real, 3, f"{k}: real"),
            ([images[i] for i in own], 4, "synthetic"),
            (labelled, 4, "its mask"),
        ):
            pictures += row + [blank] * (columns - len(row))
            captions += [caption] * len(row) + [""] * (columns - len(row))
    return contact_sheet(pictures, captions, columns=11)


def read_coco(directory: Path, categories: tuple[str, ...], file: str = FILTERED) -> Annotated:
    """The images of a `sadf_coco` artifact with their instances as (category index, mask)."""
    found = read_instances(directory, categories, file)
    return [read_image(directory / name) for name in found], list(found.values())


def read_instances(
    directory: Path, categories: tuple[str, ...], file: str = FILTERED
) -> dict[str, list[tuple[int, np.ndarray]]]:
    """file_name -> [(category index, mask)] of a COCO document, in the order of its images."""
    coco = json.loads((directory / file).read_text())
    instances: dict[int, list[tuple[int, np.ndarray]]] = {image["id"]: [] for image in coco["images"]}
    index = {entry["id"]: categories.index(entry["name"]) for entry in coco["categories"]}
    for annotation in coco["annotations"]:
        (height, width), counts = annotation["segmentation"]["size"], annotation["segmentation"]["counts"]
        instances[annotation["image_id"]].append((index[annotation["category_id"]], decode(counts, height, width)))
    return {image["file_name"]: instances[image["id"]] for image in coco["images"]}
