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

from defect_pipeline.assets.checks import Verdict, evaluate_all
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import INSPECTION, PICTURES, content, label, open_dataset
from defect_pipeline.errors import MissingArtifactError, PipelineError
from defect_pipeline.imaging.crops import defect_crops
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import data_uri
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import profile_label
from defect_pipeline.store import Artifact, Store, atomic_write
from defect_pipeline.summary.checks import shown
from defect_pipeline.summary.figures import Figures, of_each
from defect_pipeline.system import Sheet, System

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


DATA = Sheet(inspection_images, "annotated images", "The images", "Some of each class with their annotations, and the side of the split.")  # fmt: skip


def write_report(store: Store, pipeline: Pipeline, system: System, to: Path) -> None:
    """Write the page. Raises PipelineError where the store has not even images, or the file cannot be written."""
    verdicts = evaluate_all(system.checks, store, pipeline.settings)
    for side in SIDES:
        page = _Page(store, pipeline, system, verdicts, side).html().encode()
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
    system: System
    verdicts: list[Verdict]
    side: int  # px of a sheet's longer side
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dataset = open_dataset(self.store.current(INSPECTION))

    def html(self) -> str:
        system = self.system
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
            checks=system.checks,
            verdicts=self.verdicts,
            failed=[(verdict, self._worst(verdict)) for verdict in self.verdicts if verdict.passed is False],
            missing=missing,
            overview=self._sheets(system.overview, None),
            classes=[self._class(k) for k in self.dataset.categories],
            results=self._sheets(system.results, None),
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
        """The current artifacts of the system's stages, and the names of those that there are none of."""
        artifacts, missing = [], []
        for stage in (stage for step in self.system.plan for stage in step.stages):
            classes = self.dataset.categories if stage.partitioned else (None,)
            found = {k: self._part(self.store.current, stage.name, k) for k in classes}
            artifacts += [artifact for artifact in found.values() if artifact]
            lost = [k for k, artifact in found.items() if artifact is None]
            if lost:
                missing.append(label(stage.name, ", ".join(k for k in lost if k) if len(lost) < len(found) else None))
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

    def _sheets(self, wanted: Sequence[Sheet], partition: str | None) -> list[Picture]:
        """Those pictures of the current artifacts that there are."""
        sheets = []
        for sheet in wanted:
            artifact = self._part(self.store.current, sheet.stage.name, partition if sheet.stage.partitioned else None)
            file = artifact and artifact.path / PICTURES / f"{sheet.picture}.png"
            if file and file.exists():
                sheets.append(self._picture(read_image(file), sheet.title, sheet.note))
        return sheets

    def _class(self, defect_class: str) -> ClassPart:
        shelves = [self._part(self._real, defect_class)]
        made = self._part(self.system.shelves, self.store, defect_class, TILES) or {}
        for title, tiles in made.items():
            shelves.append(Shelf(title, [self._picture(tile.image, tile.name, tile=True) for tile in tiles]))
        return ClassPart(
            defect_class, "rgb({} {} {})".format(*class_colours(self.dataset.categories)[defect_class]),
            [v for v in self.verdicts if v.partition == defect_class],
            [shelf for shelf in shelves if shelf], self._sheets(self.system.of_classes, defect_class),
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

    def _worst(self, verdict: Verdict) -> list[Picture]:
        images = verdict.worst.images if verdict.worst else ()
        return [self._picture(read_image(path), path.name, shown(value), tile=True) for path, value in images]

    # --- Figures ---------------------------------------------------------------------------------------------------

    def _tables(self) -> list[Figures]:
        classes, settings = self.dataset.categories, self.pipeline.settings
        made = [self._part(gather, self.store, settings, classes) for gather in self.system.figures]
        return [table for table in made if table]

    def _bars(self) -> list[Bar]:
        """KID to held-out images of each class, from 0 to a little beyond the largest, or beyond what is allowed."""
        found = of_each(self.dataset.categories, lambda k: self.system.held_out(self.store, k))
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
        synthetic = [self._part(self.system.count, self.store, k) or 0 for k in classes]
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
            "digest of the data": content(self.store.current(INSPECTION)),
            "system": self.system.title,
            "profile": profile_label(pipeline.settings),
            "seed": str(pipeline.seed),
            "part regex": pipeline.part_regex,
            "drawn masks": pipeline.drawn_masks,
            "placement maps": pipeline.placement_maps,
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
