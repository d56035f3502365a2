"""The SADF sets of all classes, gated once more and joined into one COCO data set."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from defect_pipeline.assets.fid import Report, gate_problems, whole_set
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.errors import PipelineError
from defect_pipeline.files import content_digest
from defect_pipeline.imaging.coco import Annotated
from defect_pipeline.imaging.crops import defect_crops
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import decode
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset

FILTERED, UNFILTERED = "annotations.json", "annotations_unfiltered.json"


def sadf_coco(images: Stage, accepted: Stage, fid: Stage, *, name: str, group: str) -> Stage:
    """The stage that joins a system's images of all classes, behind the gates of their reports."""

    @stage(
        name=name,
        parents=(inspection_images, images, accepted, fid),
        settings=("thresholds.kid", "thresholds.fid", "drivers.size"),
        images=Subset(("train",), "defects"),
        group=group,
        kinds={"coco"},
    )
    def make(build: Build) -> None:
        """One COCO data set of all classes, filtered and unfiltered. Looks at every class's gate again and keeps to it."""
        classes, limit = build.classes, build.settings.thresholds.limit
        problems = []
        for k in classes:
            held_out = build.read(fid, k).load(Report).held_out
            problems += [f"{k}: {said}" for said in gate_problems(held_out, kid=limit("kid", k), fid=limit("fid", k))]
        if problems:
            raise PipelineError(
                f"{'; '.join(problems)}. Look at the contact sheets of {images.name}; train longer, add images of the class, "
                "or change its thresholds in the profile."
            )
        (build.path / IMAGES).mkdir()
        for k in classes:
            for source in sorted((build.read(images, k).path / IMAGES).glob("*.png")):
                shutil.copyfile(source, build.path / _file_name(classes, k, source.name))
        info = {"description": f"Synthetic defects: {images.name}", "seed": build.seed}
        for file, one in ((FILTERED, accepted), (UNFILTERED, images)):
            merged = _merged({k: build.read(one, k).path for k in classes}, info)
            (build.path / file).write_text(json.dumps(merged))
            build.metadata |= {f"{file}: {what}": len(merged[what]) for what in ("images", "annotations")}
        distance, synthetic, real = whole_set([build.read(fid, k).path for k in classes])
        build.metadata |= {
            "FID, all classes together": distance,
            "of synthetic images": synthetic,
            "to real crops": real,
        }
        build.draft.contents[""] = content_digest(
            build.path
        )  # a gate or a figure that changed trains no segmentor anew
        build.picture("contact sheet", _overview(build.dataset, build.path, build.settings.drivers.size))

    return make


def _merged(directories: Mapping[str, Path], info: Mapping[str, Any]) -> dict:
    """The COCO documents of the classes, by their directories, as one."""
    classes = tuple(directories)
    merged: dict = {"info": info, "images": [], "annotations": []}
    for k, directory in directories.items():
        own = json.loads((directory / "annotations.json").read_text())
        first_image, first_annotation = len(merged["images"]), len(merged["annotations"])
        merged["categories"] = own["categories"]
        merged["images"] += [
            image
            | {
                "id": image["id"] + first_image,
                "file_name": _file_name(classes, k, Path(image["file_name"]).name),
                "defect_class": k,
            }
            for image in own["images"]
        ]
        merged["annotations"] += [
            entry | {"id": entry["id"] + first_annotation, "image_id": entry["image_id"] + first_image}
            for entry in own["annotations"]
        ]
    return merged


def _file_name(classes: tuple[str, ...], defect_class: str, name: str) -> str:
    """Where an image of a class lies: by the number of the class, for its name may hold what no file's may."""
    return f"{IMAGES}/{classes.index(defect_class)}_{name}"


def painted_name(image: Mapping[str, Any]) -> str:
    """The file name that an image of the joined set had in its class's `sadf_images`."""
    return Path(image["file_name"]).name.split("_", 1)[1]


def _overview(dataset: Dataset, directory: Path, size: int) -> np.ndarray:
    """A row for each class: three real crops, four accepted images, and these with their masks."""
    colours = class_colours(dataset.categories)
    pictures, captions = [], []
    images, instances = read_coco(directory, dataset.categories)
    for number, k in enumerate(dataset.categories):
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
