"""The dataset card of an export: README.md as the Hugging Face hub reads it, from what the store's manifests say."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import yaml

from defect_pipeline.assets.accepted import REASONS, read_verdicts
from defect_pipeline.assets.checks import evaluate_all
from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.fid import Report, whole_set
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.stage import INSPECTION, content, open_dataset
from defect_pipeline.declared import declared_values
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.imaging.export.pictures import SPLITS, Picture
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import profile_label
from defect_pipeline.store import Store
from defect_pipeline.summary.checks import shown
from defect_pipeline.system import System

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
OPENING = {
    "coco": "Masks are RLE. `pycocotools.coco.COCO('annotations/instances_train.json')`, files in `images/train`. "
    "`synthetic` stands on each image.",
    "coco-polygons": "Masks are polygons; where one has a hole it is cut in two through it, so areas are exact. "
    "`pycocotools.coco.COCO('annotations/instances_train.json')`, files in `images/train`. `synthetic` stands on each "
    "image. Polygons run along the edges of pixels, as COCO has it; a tool that fills them with OpenCV adds a pixel below "
    "and to the right.",
    "yolo": "`yolo segment train data=data.yaml`. A defect of several parts, or with a hole, is one polygon that goes "
    "from part to part and back the same way; the way is drawn as a line of a pixel when the training draws masks. Names of synthetic images begin with `synthetic_`. Without real images "
    "`val` names the train images, since the key must be there: put photographs in its place before you believe a figure.",
    "cvat": "Make a project with the content of `labels.json` as raw labels, and in it a task of the folder `images`; then "
    "upload `annotations.xml` as CVAT 1.1. Each mask has the attribute `synthetic`; file names begin with `synthetic_`.",
    "label-studio": "Set LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT to the "
    "folder above this one, whose name must stay; make a project with `labeling_config.xml`, add this folder as local "
    "storage (without syncing it), import `tasks.json`. `synthetic` stands in each task's data.",
}


def dataset_card(
    store: Store,
    pipeline: Pipeline,
    system: System,
    masked: Masked,
    form: str,
    pictures: Sequence[Picture],
    files: Mapping[str, str],
    *,
    unfiltered: bool,
    licence: str,
) -> str:
    """The card of pictures exported in a format; ``files`` are those beside it, with their sha256."""
    classes = open_dataset(store.current(INSPECTION)).categories
    n_real = sum(not picture.synthetic for picture in pictures)
    refined = pipeline.settings.filter.refine and not unfiltered
    masks = (
        "the one it was painted for, shrunk or grown to what visibly changed"
        if refined
        else "the one it was painted for"
    )
    options = [option for option, given in (("--unfiltered", unfiltered), ("--with-real", n_real > 0)) if given]
    export = " ".join([f"--format {form} --to FOLDER", *options])
    parts = [
        f"---\n{_front_matter(pictures, licence)}---\n# Synthetic defects: {', '.join(classes)}",
        f"{len(pictures) - n_real} synthetic and {n_real} real images with instance masks, in the format `{form}`. The "
        f"synthetic ones were painted {system.painted}; the mask of a defect is {masks}."
        + (" Real ones are stored as 8-bit PNG, the right way up." if n_real else ""),
        f"## How to open it\n\n{OPENING[form]}\n\n`metadata.csv` has a row for each image: whether it is synthetic, its "
        "seed and driver, the image it was painted on or the photograph it is.",
        f"## What is in it\n\n{_contents(pictures, classes)}",
        f"## How good the synthetic images are\n\n{_figures(store, masked, classes)}",
        f"## What was checked\n\n{_checks(store, pipeline, system)}",
        f"## What the filter left out\n\n{_rejected(store, masked, classes, unfiltered)}",
        f"## Where it comes from\n\n{_provenance(store, pipeline, system, masked, files, export)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(pictures: Sequence[Picture], licence: str) -> str:
    size = next((name for limit, name in SIZES if len(pictures) < limit), "n>1M")
    return yaml.safe_dump(
        {
            "license": licence, "task_categories": ["image-segmentation", "object-detection"], "size_categories": [size],
            "tags": ["synthetic", "defect-detection", "industrial-inspection", "instance-segmentation"],
        },
        sort_keys=False,
    )  # fmt: skip


def _contents(pictures: Sequence[Picture], classes: Sequence[str]) -> str:
    images: Counter[tuple[str, bool, str]] = Counter()
    instances: Counter[tuple[str, bool, str]] = Counter()
    for picture in pictures:
        side = (picture.split, picture.synthetic)
        found = [instance.category for instance in picture.instances]
        images.update((*side, k) for k in set(found) or {""})
        instances.update((*side, k) for k in found)
    rows = [
        (split, "synthetic" if synthetic else "real", _plain(k) or "without defects", images[split, synthetic, k], instances[split, synthetic, k])
        for split in SPLITS for synthetic in (True, False) for k in (*classes, "") if images[split, synthetic, k]
    ]  # fmt: skip
    return _table(("split", "kind", "class", "images that show it", "defects"), rows)


def _figures(store: Store, masked: Masked, classes: Sequence[str]) -> str:
    rows, extractors = [], set()
    for k in classes:
        found = store.current(masked.fid.name, k).load(Report).held_out
        twins = store.current(masked.faithfulness.name, k).load(TwinFigures)
        copying = store.current(masked.copies.name, k).load(Copying)
        extractors.add(found.extractor)
        floor = "-" if math.isnan(found.floor_fid) else f"{found.floor_fid:.1f} ({found.n_floor})"
        rows.append(
            (
                _plain(k), f"{found.kid:.3f} ({found.kid_low:.3f} … {found.kid_high:.3f})", f"{found.floor_kid:.3f}",
                f"{found.fid:.1f}", floor, f"{found.n_synthetic} / {found.n_real}", f"{twins.ratio:.1f} ({twins.n})",
                f"{copying.copies:.0%} ({copying.n})",
            )
        )  # fmt: skip
    columns = (
        "class", "KID (95 % CI)", "KID floor", "FID", "FID floor (n)", "n synthetic / real", "change in mask (n)", "copies (n)",
    )  # fmt: skip
    fid, synthetic, real = whole_set([store.current(masked.fid.name, k).path for k in classes])
    return (
        f"{_table(columns, rows)}\n\nAll classes together: FID {fid:.1f} ({synthetic} synthetic, {real} real).\n\n"
        f"KID and FID are of the accepted images to crops of held-out photographs, by {', '.join(sorted(extractors))}; they "
        "compare only with figures of the same extractor and numbers. Floor: real against real. Change in mask: how many "
        "times more differs from a twin without the defect under the mask than elsewhere. Copies: the share nearer to a "
        "training defect than real ones are to each other."
    )


def _checks(store: Store, pipeline: Pipeline, system: System) -> str:
    rows = []
    for verdict in evaluate_all(system.checks, store, pipeline.settings):
        figures = ", ".join(f"{name} {shown(value)}" for name, value in verdict.figures.items())
        said = "not judged" if verdict.passed is None else "passed" if verdict.passed else "failed"
        rows.append((verdict.check.name, _plain(verdict.partition or "all classes"), said, _plain(figures)))
    return _table(("check", "class", "result", "figures"), rows)


def _rejected(store: Store, masked: Masked, classes: Sequence[str], unfiltered: bool) -> str:
    rows = []
    for k in classes:
        reasons = read_verdicts(store.current(masked.accepted.name, k).path)["reason"]
        counts = reasons.value_counts()
        rows.append((_plain(k), len(reasons), counts.get("", 0), *(counts.get(reason, 0) for reason in REASONS)))
    where = (
        "The rejected images are in this export; `rejected_as` in `metadata.csv` says which."
        if unfiltered
        else "None of the rejected images is in this export."
    )
    return f"{_table(('class', 'painted', 'accepted', *REASONS), rows)}\n\n{where}"


def _provenance(
    store: Store, pipeline: Pipeline, system: System, masked: Masked, files: Mapping[str, str], export: str
) -> str:
    classes = open_dataset(store.current(INSPECTION)).categories
    made_from = masked.joined.ancestors
    learned = next(stage for stage in made_from if "backbone" in stage.settings)
    changed = any(learned.stale(store, pipeline, k) for k in (classes if learned.partitioned else (None,)))
    digest = str(declared_values(pipeline.settings, ("backbone",))["backbone"])
    backbone = "not the one in the profile now" if changed else digest
    everything = hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in files.items()).encode()).hexdigest()
    facts = [
        ("project", f"defect-pipeline {version('defect-pipeline')}"), ("profile", profile_label(pipeline.settings)),
        ("seed of the run", pipeline.seed), ("seed of an image", "in `metadata.csv`"), ("backbone", backbone),
        ("photographs and split", content(store.current(INSPECTION))),
        ("files of this export", f"sha256 {everything}; of each in `export.json`"),
    ]  # fmt: skip
    rows = [
        (f"{stage.name} {_plain(k)}".strip(), artifact.digest, artifact.metadata["code_version"], artifact.created)
        for stage in made_from
        for k in (classes if stage.partitioned else ("",))
        for artifact in [store.current(stage.name, k or None)]
    ]
    options = [
        f"--{name.replace('_', '-')} {what}"
        for name, what in (("part_regex", "REGEX"), ("drawn_masks", "DIR"), ("placement_maps", "DIR"))
        if getattr(pipeline, name)
    ]
    run = " ".join([f"--system {system.name} --data DIR --profile profile.toml --seed {pipeline.seed}", *options])
    return (
        f"{_table(('what', 'value'), facts)}\n\n{_table(('artifact', 'digest of how it is made', 'code version', 'made'), rows)}\n\n"
        "To make it again, with the photographs in DIR and the `profile.toml` of this folder:\n\n"
        f"```sh\ndefect-pipeline run {run}\ndefect-pipeline export {export}\n```"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _plain(name: str) -> str:
    """A class name that leaves a table of Markdown whole."""
    return " ".join(name.replace("|", "\\|").split())
