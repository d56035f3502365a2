"""A run as one HTML page for people without Dagster: pictures first, then figures, checks, and what it was made from.

The page holds its pictures in itself and fetches nothing; what the run has not made yet is named in place of shown.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from defect_pipeline.assets.coco import read_instances
from defect_pipeline.assets.fid import Report
from defect_pipeline.assets.stablesdg.generate import read_generated
from defect_pipeline.assets.stablesdg.reports import GeneratedReport
from defect_pipeline.assets.stage import PICTURES, Pipeline, content, label, open_dataset
from defect_pipeline.assets.union.places import seen_as_first
from defect_pipeline.automation.checks import Verdict, checks_of, evaluate_all
from defect_pipeline.automation.jobs import PLANS
from defect_pipeline.errors import MissingArtifactError, PipelineError
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.imaging.crops import defect_crops
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import data_uri, overlay
from defect_pipeline.store import Artifact, Store, atomic_write
from defect_pipeline.summary.checks import shown
from defect_pipeline.summary.figures import TABLES, Figures, of_each

LIMIT = 10 * 2**20  # bytes of the page
SIDES = (1600, 1100, 750, 500)  # px of a sheet's longer side, the first with which the page is below LIMIT
TILES = 6  # images of a class in a row
TILE = 0.2  # of a sheet's side
REJECTED = 500  # files listed
FAR = 5  # times the largest KID; an allowed one beyond that is left off the scale
PACKAGES = (
    "defect-pipeline",
    "torch",
    "diffusers",
    "torchvision",
    "timm",
    "opencv-python-headless",
    "numpy",
    "dagster",
)
SYSTEMS = {
    "sadf": "SADF: masks and drivers",
    "stablesdg": "StableSDG: images from real ones",
    "union": "StableSDG's generator, steered by masks and drivers",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """`uri` holds the picture; width and height in px."""

    uri: str
    width: int
    height: int
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Shelf:
    """Images of one kind, side by side."""

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Bar:
    """A class's KID as text, and in percent of a common scale; None where it lies beyond, or was not measured."""

    name: str
    text: str
    low: float
    high: float
    value: float
    floor: float | None
    allowed: float | None


@dataclass
class ClassPart:
    name: str
    colour: str
    verdicts: list[Verdict]
    shelves: list[Shelf]
    sheets: list[Picture]


_TUNED = ("strength_and_guidance", "strength and guidance", "Strength and guidance", "KID and copies of each pair that was tried.")  # fmt: skip
_MASKED = (
    ("faithfulness_report", "best", "Where the defect stands out most", "From above: the mask asked for, the image, its twin painted from the same noise without the mask, and what changed, doubled."),
    ("faithfulness_report", "worst", "Where it stands out least", "The same rows, of the images that change least under their masks."),
    ("copy_report", "nearest training defects", "Nearest to training defects", "Each synthetic defect above the training defect it is nearest to, with their distance in features."),
    ("sadf_accepted", "rejected", "Left out by the filter", "Each with the reason."),
    ("sadf_images", "contact sheet with masks", "What was painted", "The first images of the class, before the filter."),
)  # fmt: skip
SHEETS = {  # of each system: (asset, picture, title, what it shows) of each class
    "sadf": _MASKED,
    "union": (
        *_MASKED,
        _TUNED,
        ("hypernetwork_weights", "fixed drivers over steps", "How the generator learned", "What it paints for the same drivers as its training goes on."),
    ),
    "stablesdg": (
        ("stablesdg_images", "beside their sources", "Beside their sources", "Each image after the train image it was painted from."),
        ("stablesdg_copy_report", "nearest training defects", "Nearest to train images", "Each generated image above the train image it is nearest to, with their distance in features."),
        _TUNED,
        ("stablesdg_images", "contact sheet", "What was painted", "The first images of the class."),
    ),
}  # fmt: skip
_JOINED = (("sadf_coco", "contact sheet", "All classes", "Real images of each class, synthetic ones, and these with their masks."),)  # fmt: skip
OVERVIEW = {  # the same of all classes together, shown above the classes and after them
    "sadf": _JOINED,
    "union": _JOINED,
    "stablesdg": (),
}  # fmt: skip
_SEEN = ("segmentation_report", "test images", "What the segmentor sees", "Test images as annotated, and as each training regime finds them.")  # fmt: skip
_LEARNED = ("segmentor", "loss", "Loss of the segmentor", "")
RESULTS = {
    "sadf": (
        _SEEN,
        ("hypernetwork_weights", "fixed drivers over steps", "How the generator learned", "What it paints for the same drivers as its training goes on."),
        _LEARNED,
        ("concept_weights", "loss", "Loss of the concept", ""),
        ("hypernetwork_weights", "loss", "Loss of the hypernetwork", ""),
    ),
    "union": (_SEEN, _LEARNED),
    "stablesdg": (
        ("recognition_report", "accuracy", "Accuracy", "On the test images."),
        ("recognition_report", "wrong", "Taken for another class", "The true class, and the one that was seen."),
        ("recognizer", "loss", "Loss of the classifiers", ""),
    ),
}  # fmt: skip
DATA = ("inspection_images", "annotated images", "The images", "Some of each class with their annotations, and the side of the split.")  # fmt: skip


def write_report(store: Store, pipeline: Pipeline, to: Path) -> None:
    """Write the page. Raises PipelineError where the store has not even images, or the file cannot be written."""
    verdicts = evaluate_all(store, pipeline)
    for side in SIDES:
        page = _Page(seen_as_first(store, pipeline), pipeline, verdicts, side).html().encode()
        if len(page) <= LIMIT:
            break
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(to, page)
    except OSError as error:
        raise PipelineError(f"{to} cannot be written ({error.strerror}); name another file with --to.") from error


@dataclass
class _Page:
    """Gathers what a run left in its store; parts that it did not come to are left out and named."""

    store: Store
    pipeline: Pipeline
    verdicts: list[Verdict]
    side: int  # px of a sheet's longer side
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dataset = open_dataset(self.store.current("inspection_images"))

    def html(self) -> str:
        system = self.pipeline.system
        artifacts, missing = self._planned()
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters["shown"] = shown
        return environment.get_template("report.html").render(
            title=self.dataset.root.name,
            now=f"{_minute(datetime.now(UTC).isoformat())} UTC",
            facts=self._facts(),
            checks=checks_of(self.pipeline),
            verdicts=self.verdicts,
            failed=[(verdict, self._worst(verdict)) for verdict in self.verdicts if verdict.passed is False],
            missing=missing,
            overview=self._sheets(OVERVIEW[system], None),
            classes=[self._class(k) for k in self.dataset.categories],
            results=self._sheets(RESULTS[system], None),
            tables=self._tables(),
            bars=self._part(self._bars) or [],
            counts=self._counts(),
            images=self._sheets([DATA], None),
            rejected=self.dataset.rejected.head(REJECTED).to_dict("records"),
            left_out=len(self.dataset.rejected),
            provenance=self._provenance(artifacts),
            artifacts=artifacts,
            unreadable=self.unreadable,
        )

    def _planned(self) -> tuple[list[Artifact], list[str]]:
        """The current artifacts of the system's plan, and the names of those that there are none of."""
        artifacts, missing = [], []
        for step in PLANS[self.pipeline.system]:
            classes = self.dataset.categories if step.partitioned else (None,)
            for asset in step.assets:
                found = {k: self._part(self.store.current, asset, k) for k in classes}
                artifacts += [artifact for artifact in found.values() if artifact]
                lost = [k for k, artifact in found.items() if artifact is None]
                if lost:
                    missing.append(label(asset, ", ".join(k for k in lost if k) if len(lost) < len(found) else None))
        return artifacts, missing

    def _part(self, gather: Callable[..., T], *arguments: Any) -> T | None:
        """What a part of the page needs; None where the run did not make it, or what it made cannot be read."""
        try:
            return gather(*arguments)
        except MissingArtifactError:
            pass  # it is on the list of what is missing
        except PipelineError as error:
            if str(error) not in self.unreadable:
                self.unreadable.append(str(error))
        return None

    # --- Pictures --------------------------------------------------------------------------------------------------

    def _picture(self, image: np.ndarray, title: str = "", note: str = "", *, tile: bool = False) -> Picture:
        height, width = image.shape[:2]
        return Picture(data_uri(image, round(self.side * (TILE if tile else 1))), width, height, title, note)

    def _sheets(self, wanted: Sequence[tuple[str, str, str, str]], partition: str | None) -> list[Picture]:
        """Those pictures of the current artifacts that there are."""
        sheets = []
        for asset, name, title, note in wanted:
            artifact = self._part(self.store.current, asset, partition)
            file = artifact and artifact.path / PICTURES / f"{name}.png"
            if file and file.exists():
                sheets.append(self._picture(read_image(file), title, note))
        return sheets

    def _class(self, defect_class: str) -> ClassPart:
        system = self.pipeline.system
        shelves = [self._part(self._real, defect_class)]
        shelves += self._part(SYNTHETIC[system], self, defect_class) or []
        return ClassPart(
            defect_class, "rgb({} {} {})".format(*class_colours(self.dataset.categories)[defect_class]),
            [v for v in self.verdicts if v.partition == defect_class],
            [shelf for shelf in shelves if shelf], self._sheets(SHEETS[system], defect_class),
        )  # fmt: skip

    def _real(self, defect_class: str) -> Shelf:
        """Train images, of as many parts as there are, cut as the generator sees them."""
        images, drivers = self.dataset.images, self.pipeline.settings.drivers
        train = images.loc[self.dataset.of_class(defect_class)].query("split == 'train'")
        ids = train.assign(again=train.duplicated("group")).sort_values("again", kind="stable").index[:TILES].tolist()
        crops = defect_crops(
            self.dataset, ids, defect_class, drivers.size, per_image=2, zoom=drivers.zoom, seed=self.pipeline.seed
        )
        last = {crop.image_id: crop.image for crop in crops}
        return Shelf("Real", [self._picture(last[i], str(images.at[i, "path"]), tile=True) for i in ids if i in last])

    def _accepted(self, defect_class: str) -> list[Shelf]:
        classes = self.dataset.categories
        painted = self.store.current("sadf_images", defect_class).path
        instances = read_instances(self.store.current("sadf_accepted", defect_class).path, classes)
        plain, labelled = Shelf("Synthetic", []), Shelf("The same with their masks", [])
        for name in list(instances)[:TILES]:
            image = read_image(painted / name)
            masks = [(classes[number], mask) for number, mask in instances[name]]
            plain.pictures.append(self._picture(image, name, tile=True))
            labelled.pictures.append(self._picture(overlay(image, masks, class_colours(classes)), name, tile=True))
        return [plain, labelled]

    def _generated(self, defect_class: str) -> list[Shelf]:
        images = read_generated(self.store.current("stablesdg_images", defect_class).path)[:TILES]
        return [Shelf("Synthetic", [self._picture(image, tile=True) for image in images])]

    def _worst(self, verdict: Verdict) -> list[Picture]:
        images = verdict.worst.images if verdict.worst else ()
        return [self._picture(read_image(path), path.name, shown(value), tile=True) for path, value in images]

    # --- Figures ---------------------------------------------------------------------------------------------------

    def _tables(self) -> list[Figures]:
        made = [
            self._part(table, self.store, self.pipeline, self.dataset.categories)
            for table in TABLES[self.pipeline.system]
        ]
        return [table for table in made if table]

    def _bars(self) -> list[Bar]:
        """KID to held-out images of each class, from 0 to a little beyond the largest, or beyond what is allowed."""
        held_out = HELD_OUT[self.pipeline.system]
        found = of_each(self.dataset.categories, lambda k: held_out(self.store, k))
        allowed = {k: self.pipeline.settings.thresholds.of(k).kid for k in found}
        end = max(np.nanmax([one.kid_high, one.floor_kid]) for one in found.values())
        end = max(end, *(limit for limit in allowed.values() if limit < FAR * end), 1e-9)
        scale = 100 / (1.05 * end)

        def at(value: float) -> float | None:
            return scale * max(value, 0) if scale * value <= 100 else None

        bars = []
        for k, one in found.items():
            low, value, high = (scale * max(v, 0) for v in (one.kid_low, one.kid, one.kid_high))
            bars.append(Bar(k, f"{one.kid:.3f}", low, high, value, at(one.floor_kid), at(allowed[k])))
        return bars

    def _facts(self) -> list[tuple[str, str]]:
        """The run in a few numbers, each with what it counts."""
        classes, images = self.dataset.categories, self.dataset.images
        synthetic = [self._part(COUNTED[self.pipeline.system], self.store, k) or 0 for k in classes]
        return [
            (str(len(images)), f"real images of {images['group'].nunique()} parts"),
            (str(len(classes)), "classes of defects" if len(classes) > 1 else "class of defects"),
            (str(sum(synthetic)), "synthetic images"),
        ]

    def _counts(self) -> Figures:
        images, sides = self.dataset.images, ("train", "val", "test")
        counts = images.groupby(["defect_class", "split"]).size()
        rows = [
            (k or "without a defect", *(str(counts.get((k, side), 0)) for side in sides))
            for k in (*self.dataset.categories, "")
        ]
        return Figures("Images of each class", ("class", *sides), tuple(rows))

    def _provenance(self, artifacts: list[Artifact]) -> dict[str, str]:
        pipeline, made = self.pipeline, sorted(artifact.created for artifact in artifacts)
        thresholds = asdict(pipeline.settings.thresholds)
        own = thresholds.pop("per_class") | {"all classes": thresholds}
        named = {
            "images": str(self.dataset.root),
            "digest of the data": content(self.store.current("inspection_images")),
            "system": SYSTEMS[pipeline.system],
            "profile": pipeline.profile,
            "seed": str(pipeline.seed),
            "part regex": pipeline.part_regex,
            "drawn masks": pipeline.drawn_masks,
            "placement maps": pipeline.placement_maps,
            "thresholds file": pipeline.thresholds,
            **{f"thresholds, {k}": ", ".join(f"{n} {shown(v)}" for n, v in found.items()) for k, found in own.items()},
            "store": self.store.root,
            "made": f"{_minute(made[0])} to {_minute(made[-1])} UTC",
        }
        packages = {name: version(name) for name in PACKAGES}
        return {name: value for name, value in named.items() if value} | {
            "versions, when this page was written": ", ".join(
                f"{name} {found}" for name, found in {"Python": platform.python_version(), **packages}.items()
            )
        }


def _minute(time: str) -> str:
    """Of an ISO time as people write it."""
    return time[:16].replace("T", " ")


SYNTHETIC: dict[str, Callable[[_Page, str], list[Shelf]]] = {
    "sadf": _Page._accepted,
    "union": _Page._accepted,
    "stablesdg": _Page._generated,
}


def _masked_count(store: Store, defect_class: str) -> int:
    return store.current("sadf_accepted", defect_class).metadata["accepted"]


def _stablesdg_count(store: Store, defect_class: str) -> int:
    return store.current("stablesdg_images", defect_class).metadata["images"]


COUNTED = {"sadf": _masked_count, "union": _masked_count, "stablesdg": _stablesdg_count}


def _masked_held_out(store: Store, defect_class: str) -> Comparison:
    return Report.read(store.current("fid_report", defect_class).path).held_out


def _stablesdg_held_out(store: Store, defect_class: str) -> Comparison:
    return GeneratedReport.read(store.current("stablesdg_fid_report", defect_class).path).held_out


HELD_OUT = {"sadf": _masked_held_out, "union": _masked_held_out, "stablesdg": _stablesdg_held_out}
