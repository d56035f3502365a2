"""The dataset card of an export: README.md as the Hugging Face hub reads it, from what the store's manifests say."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import yaml

from defect_pipeline.assets.accepted import REASONS, read_verdicts
from defect_pipeline.assets.concept import backbone_of
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.fid import Report, whole_set
from defect_pipeline.assets.stage import STAGES, Pipeline, content, open_dataset
from defect_pipeline.automation.jobs import stale
from defect_pipeline.imaging.export.pictures import SPLITS, Picture
from defect_pipeline.store import Store

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MADE_FROM = {  # by system; the first of the weights begins with the backbone
    "sadf": (
        "inspection_images", "defect_free_pool", "mask_bank", "concept_weights", "hypernetwork_weights", "sadf_images",
        "sadf_accepted", "sadf_coco",
    ),
    "union": (
        "inspection_images", "union_canvases", "token_embedding", "lora_weights", "union_weights", "union_images",
        "union_accepted", "union_coco",
    ),
}  # fmt: skip
PAINTED = {
    "sadf": "on augmented defect-free photographs (controllable synthesis, arXiv 2401.03152)",
    "union": "from noised photographs by a generator of each class (StableSDG), steered by masks (controllable synthesis, "
    "arXiv 2401.03152)",
}
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
    form: str,
    pictures: Sequence[Picture],
    files: Mapping[str, str],
    *,
    unfiltered: bool,
    licence: str,
) -> str:
    """The card of pictures exported in a format; ``files`` are those beside it, with their sha256."""
    classes = open_dataset(store.current("inspection_images")).categories
    n_real = sum(not picture.synthetic for picture in pictures)
    refined = pipeline.settings.filter.refine and not unfiltered
    masks = "the one it was asked for" + refined * ", shrunk or grown to what visibly changed"
    export = f"--format {form} --to FOLDER{unfiltered * ' --unfiltered'}{(n_real > 0) * ' --with-real'}"
    parts = [
        f"---\n{_front_matter(pictures, licence)}---\n# Synthetic defects: {', '.join(classes)}",
        f"{len(pictures) - n_real} synthetic and {n_real} real images with instance masks, in the format `{form}`. The "
        f"synthetic ones were painted {PAINTED[pipeline.system]}; the mask of a defect is {masks}."
        + (" Real ones are stored as 8-bit PNG, the right way up." if n_real else ""),
        f"## How to open it\n\n{OPENING[form]}\n\n`metadata.csv` has a row for each image: whether it is synthetic, its "
        "seed and driver, the image it was painted on or the photograph it is.",
        f"## What is in it\n\n{_contents(pictures, classes)}",
        f"## How good the synthetic images are\n\n{_figures(store, classes)}",
        f"## What the filter left out\n\n{_rejected(store, classes, unfiltered)}",
        f"## Where it comes from\n\n{_provenance(store, pipeline, classes, files, export)}",
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


def _figures(store: Store, classes: Sequence[str]) -> str:
    rows, extractors = [], set()
    for k in classes:
        found = Report.read(store.current("fid_report", k).path).held_out
        _, twins = read_twins(store.current("faithfulness_report", k).path)
        _, copying = read_copies(store.current("copy_report", k).path)
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
    fid, synthetic, real = whole_set([store.current("fid_report", k).path for k in classes])
    return (
        f"{_table(columns, rows)}\n\nAll classes together: FID {fid:.1f} ({synthetic} synthetic, {real} real).\n\n"
        f"KID and FID are of the accepted images to crops of held-out photographs, by {', '.join(sorted(extractors))}; they "
        "compare only with figures of the same extractor and numbers. Floor: real against real. Change in mask: how many "
        "times more differs from a twin without the defect under the mask than elsewhere. Copies: the share nearer to a "
        "training defect than real ones are to each other."
    )


def _rejected(store: Store, classes: Sequence[str], unfiltered: bool) -> str:
    rows = []
    for k in classes:
        reasons = read_verdicts(store.current("sadf_accepted", k).path)["reason"]
        counts = reasons.value_counts()
        rows.append((_plain(k), len(reasons), counts.get("", 0), *(counts.get(reason, 0) for reason in REASONS)))
    told = (
        "The rejected images are in this export; `rejected_as` in `metadata.csv` says which."
        if unfiltered
        else "None of the rejected images is in this export."
    )
    return f"{_table(('class', 'painted', 'accepted', *REASONS), rows)}\n\n{told}"


def _provenance(store: Store, pipeline: Pipeline, classes: Sequence[str], files: Mapping[str, str], export: str) -> str:
    made_from = MADE_FROM[pipeline.system]
    learned = next(name for name in made_from if name in ("concept_weights", "token_embedding"))
    changed = any(stale(learned, k, store, pipeline) for k in (classes if STAGES[learned].partitioned else (None,)))
    backbone = "not the one in the profile now" if changed else backbone_of(pipeline)
    everything = hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in files.items()).encode()).hexdigest()
    facts = [
        ("project", f"defect-pipeline {version('defect-pipeline')}"), ("profile", pipeline.profile),
        ("seed of the run", pipeline.seed), ("seed of an image", "in `metadata.csv`"), ("backbone", backbone),
        ("photographs and split", content(store.current("inspection_images"))),
        ("files of this export", f"sha256 {everything}; of each in `export.json`"),
    ]  # fmt: skip
    rows = [
        (f"{name} {_plain(k)}".strip(), artifact.digest, artifact.metadata["code_version"], artifact.created)
        for name in made_from
        for k in (classes if STAGES[name].partitioned else ("",))
        for artifact in [store.current(name, k or None)]
    ]
    options = [
        f"--{name.replace('_', '-')} {what}"
        for name, what in (("part_regex", "REGEX"), ("drawn_masks", "DIR"), ("placement_maps", "DIR"))
        if getattr(pipeline, name)
    ]
    run = " ".join(
        [f"--system {pipeline.system} --data DIR --profile {pipeline.profile} --seed {pipeline.seed}", *options]
    )
    return (
        f"{_table(('what', 'value'), facts)}\n\n{_table(('artifact', 'digest of how it is made', 'code version', 'made'), rows)}\n\n"
        "To make it again, with the photographs in DIR:\n\n"
        f"```sh\ndefect-pipeline run {run}\ndefect-pipeline export {export}\n```"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _plain(name: str) -> str:
    """A class name that leaves a table of Markdown whole."""
    return " ".join(name.replace("|", "\\|").split())
