"""What `defect-pipeline export` writes: a store's synthetic set, by itself or with the real images, for other tools."""

import csv
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.checks import evaluate_all
from defect_pipeline.assets.coco import FILTERED, UNFILTERED, painted_name
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.stage import INSPECTION, open_dataset
from defect_pipeline.errors import PipelineError
from defect_pipeline.generator.canvases import image_seed
from defect_pipeline.imaging.export import WRITERS
from defect_pipeline.imaging.export.pictures import Instance, Picture
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_png
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import profile_toml
from defect_pipeline.store import Store, explaining_full_disk, file_sha256, temporary
from defect_pipeline.summary.card import dataset_card
from defect_pipeline.system import System
from defect_pipeline.systems import SYSTEMS

NOTE = "export.json"  # what an export consists of, so that another one may replace it and nothing else
TABLE = "metadata.csv"  # of the images
PROFILE = "profile.toml"  # what they were made with


@dataclass(frozen=True)
class Source:
    """Where the file of a picture comes from: one of the store is copied, a photograph becomes 8-bit PNG as displayed."""

    path: Path
    copied: bool

    def write(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.copied:
            shutil.copyfile(self.path, target)
        else:
            save_png(target, read_image(self.path))


def export_set(
    store: Store, pipeline: Pipeline, system: System, form: str, target: Path,
    *, unfiltered: bool, with_real: bool, licence: str,
) -> int:  # fmt: skip
    """Write the set in one of WRITERS' formats to the folder ``target``, whole or not at all; how many images it has.

    ``unfiltered`` takes the rejected images too, ``with_real`` all inspection images with their split; synthetic ones
    are for training. Raises PipelineError where the target holds anything but an export, where the store has no set
    that is up to date, or where the format cannot hold a class's name.
    """
    target = target.resolve()
    masked = _exportable(store, pipeline, system, target)
    pairs = [
        *_synthetic(store, pipeline.seed, masked, UNFILTERED if unfiltered else FILTERED),
        *(_real(store) if with_real else ()),
    ]
    pictures = [picture for picture, _ in pairs]
    categories = open_dataset(store.current(INSPECTION)).categories
    try:
        with explaining_full_disk(target.parent, "--to"), temporary(target.parent, target.name) as desk:
            folder = desk / "new" / target.name  # Label Studio's paths begin with the folder's final name
            for picture, source in pairs:
                source.write(folder / picture.path)
            WRITERS[form](folder, pictures, categories)
            _write_table(folder / TABLE, pictures)
            (folder / PROFILE).write_text(profile_toml(pipeline.settings), encoding="utf-8")
            files = _digests(folder)
            card = dataset_card(
                store, pipeline, system, masked, form, pictures, files, unfiltered=unfiltered, licence=licence
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            note = {"format": form, "files": _digests(folder)}
            (folder / NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
            if target.exists():
                os.rename(target, desk / "old")
            os.rename(folder, target)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise PipelineError(f"{target} cannot be written ({error.strerror}); name another folder with --to.") from error
    return len(pictures)


def _exportable(store: Store, pipeline: Pipeline, system: System, target: Path) -> Masked:
    """The stages to export. Raises PipelineError where there is nothing to export or no place for it; before anything is
    written."""
    if system.masked is None:
        others = " or ".join(other.name for other in SYSTEMS if other.masked)
        raise PipelineError(
            f"{store.root} is of --system {system.name}, whose images have no masks; export a run of --system {others}."
        )
    joined = system.masked.joined
    store.current(joined.name)
    if joined.stale(store, pipeline, None):
        verdicts = evaluate_all(system.checks, store, pipeline.settings)
        closed = [str(one) for one in verdicts if one.check.blocking and one.passed is False]
        held = f" What holds a run back: {'; '.join(closed)}." if closed else ""
        raise PipelineError(
            f"The {joined.name} in {store.root} is older than what it was made from; run `defect-pipeline run` first.{held}"
        )
    if target == pipeline.root or pipeline.root in target.parents:
        raise PipelineError(
            f"{target} lies among the inspection images, where synthetic ones would be taken for real; name another folder with --to."
        )
    _check_replaceable(target)
    return system.masked


def _check_replaceable(target: Path) -> None:
    """Raises PipelineError unless there is nothing at the target, or an export and nothing else, each file as written."""
    if target.is_dir():
        try:
            known = dict(json.loads((target / NOTE).read_bytes())["files"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            known = {}
        for name, digest in _digests(target).items():
            if known.get(name) != digest and not (known and name == NOTE):
                raise PipelineError(
                    f"{target / name} is not of an export, or was changed since; move it away, or name another folder with --to."
                )
    elif target.exists():
        raise PipelineError(f"{target} is a file; name a folder with --to.")


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file below a folder, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _synthetic(store: Store, seed: int, masked: Masked, file: str) -> Iterator[tuple[Picture, Source]]:
    """The images of the joined set, as one of its documents lists them."""
    folder = store.current(masked.joined.name).path
    coco = json.loads((folder / file).read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    instances: dict[int, list[Instance]] = defaultdict(list)
    for found in coco["annotations"]:
        instances[found["image_id"]].append(Instance(names[found["category_id"]], found["segmentation"]["counts"]))
    banks = {k: read_bank(store.current(masked.bank.name, k).path) for k in names.values()}
    verdicts = {
        k: read_verdicts(store.current(masked.accepted.name, k).path).set_index("image") for k in names.values()
    }
    for image in coco["images"]:
        k, painted = image["defect_class"], painted_name(image)
        origin = {
            "defect_class": k,
            "seed": image_seed(seed, k, painted),
            "driver": image["driver"],
            "rejected_as": str(verdicts[k].at[painted, "reason"]),
            "source": f"{masked.pool.name}/{banks[k][image['driver']].background}",
            "group": "",
        }
        stem = Path(image["file_name"]).stem
        own = tuple(instances[image["id"]])
        picture = Picture(stem, "train", image["height"], image["width"], True, own, origin)
        yield picture, Source(folder / image["file_name"], copied=True)


def _real(store: Store) -> Iterator[tuple[Picture, Source]]:
    """The inspection images with their own split, annotated and defect-free ones."""
    dataset = open_dataset(store.current(INSPECTION))
    own: dict[int, list[Instance]] = defaultdict(list)
    columns = dataset.instances[["image_id", "category", "counts", "iscrowd"]]
    for image_id, category, counts, crowd in columns.itertuples(index=False):
        own[image_id].append(Instance(category, counts, bool(crowd)))
    for row in dataset.images.reset_index().to_dict("records"):
        origin = {
            "defect_class": row["defect_class"], "seed": "", "driver": "", "rejected_as": "",
            "source": row["path"], "group": row["group"],
        }  # fmt: skip
        number, height, width = (int(row[key]) for key in ("image_id", "height", "width"))
        picture = Picture(f"{number:05d}", row["split"], height, width, False, tuple(own[number]), origin)
        yield picture, Source(dataset.root / row["path"], copied=False)


def _write_table(path: Path, pictures: list[Picture]) -> None:
    """A row for each image, by the path of its file: whether it is synthetic, and all that is known of it."""
    rows: list[Mapping[str, object]] = [
        {"file_name": picture.path, "split": picture.split, "synthetic": picture.synthetic, **picture.origin}
        for picture in pictures
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
