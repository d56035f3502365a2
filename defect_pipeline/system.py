"""What a system is: its stages, the checks on them, and what is shown of them. Plan and jobs follow from the stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.table import Table as RichTable

from defect_pipeline.assets.checks import Check
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.stage import INSPECTION, Stage, in_order, open_dataset
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.store import Store
from defect_pipeline.summary.figures import FiguresOf
from defect_pipeline.summary.quality import Printer


@dataclass(frozen=True)
class Step:
    """Stages that run together as a job; once for each defect class, or for each cell of the first, or once."""

    job: str
    stages: tuple[Stage, ...]

    @property
    def partitioned(self) -> bool:
        """Whether it runs for each defect class."""
        return self.stages[0].partitioned

    @property
    def cells(self) -> tuple[str, ...]:
        return self.stages[0].cells

    def partitions(self, store: Store) -> tuple[str | None, ...]:
        """What it runs for, one after the other."""
        return classes_of(store) if self.partitioned else self.cells or (None,)


@dataclass(frozen=True)
class Table:
    """A table of one of the papers on the user's data: measured cell by cell, then made."""

    number: str  # as `tables --only` names it
    stage: Stage  # keeps NAME.csv and the picture NAME
    printed: Callable[[str, list[dict]], RichTable]  # name and rows -> what the console shows
    cells: tuple[Stage, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """A job for each stage of cells, and one for the table."""
        measured = (Step(f"measure_{cell.name.removesuffix('_cell')}", (cell,)) for cell in self.cells)
        return (*measured, Step(f"make_{self.stage.name}", (self.stage,)))


@dataclass(frozen=True)
class Sheet:
    """A picture that a stage keeps, and what the report says of it; of each class where the stage has classes."""

    stage: Stage
    picture: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """A small image on the report: (S, S, 3) uint8 and the name of its file."""

    image: np.ndarray
    name: str = ""


@dataclass(frozen=True)
class Closing:
    """What a run prints at its end: a row for each class under these columns; then of all classes a headline, a table,
    and where the contact sheet lies. All raise MissingArtifactError where the run did not come so far."""

    columns: tuple[str, ...]
    row: Callable[[Store, str], list[str]]
    headline: Callable[[Store, Sequence[str]], str]  # of the classes; "" for none
    table: FiguresOf
    sheet: Stage  # whose picture "contact sheet" is named, of each class where it has classes


@dataclass(frozen=True)
class Quality:
    """What `defect-pipeline quality` makes, prints and, where it is asked to, writes to a folder."""

    stages: tuple[Stage, ...]
    printed: Printer
    pictures: tuple[Sheet, ...]


@dataclass(frozen=True, kw_only=True)
class System:
    """A way to learn a component and to paint its defects, from images to a verdict.

    All else is derived: the order of the stages and the plan, the jobs, what the command line offers, what `check`,
    report, card and export speak of.
    """

    name: str
    title: str  # a phrase for the report and the command line
    painted: str  # how its images were made, for the dataset card
    stages: tuple[Stage, ...]
    jobs: tuple[str, ...]  # names of the steps of the plan, in order
    checks: tuple[Check, ...]
    closing: Closing
    figures: tuple[FiguresOf, ...]  # the tables of the report
    overview: tuple[Sheet, ...] = ()  # of the report, above the classes
    of_classes: tuple[Sheet, ...] = ()
    results: tuple[Sheet, ...] = ()  # below the classes
    shelves: Callable[[Store, str, int], dict[str, list[Tile]]]  # of a class, so many images in each row
    held_out: Callable[[Store, str], Comparison]  # a class's images to held-out ones
    count: Callable[[Store, str], int]  # of a class's images that may be used
    masked: Masked | None = None  # the stages whose images have masks, to be exported; None where they have none
    images: Stage  # of each class
    judged: Stage  # its report, behind whose gate a class's images may be used
    quality: Quality | None = None  # on demand: what the generator is worth
    tables: tuple[Table, ...] = ()

    @cached_property
    def plan(self) -> tuple[Step, ...]:
        """Its stages in steps: what is made for each class and what is made once, by turns, each as early as it can be.

        Raises ValueError where `jobs` does not name as many steps.
        """
        level: dict[Stage, int] = {}
        for one in in_order(self.stages):
            before = [level[p] + (p.partitioned != one.partitioned) for p in one.parents if p in level]
            level[one] = max(before, default=int(one.partitioned))
        steps = [tuple(one for one in level if level[one] == number) for number in sorted(set(level.values()))]
        if len(steps) != len(self.jobs):
            raise ValueError(f"system {self.name} names {len(self.jobs)} jobs for {len(steps)} steps: {steps}")
        return tuple(Step(job, own) for job, own in zip(self.jobs, steps, strict=True))

    @property
    def quality_steps(self) -> tuple[Step, ...]:
        """Those on demand: a job for what is made for each class, and one for what is made once."""
        stages = self.quality.stages if self.quality else ()
        of_classes = tuple(one for one in stages if one.partitioned)
        of_all = tuple(one for one in stages if not one.partitioned)
        return tuple(Step(job, own) for job, own in (("judge_classes", of_classes), ("judge", of_all)) if own)

    def steps_of(self, table: Table) -> tuple[Step, ...]:
        """The plan as far as the table reads of it, and the table's own steps."""
        read = {parent for step in table.steps for one in step.stages for parent in one.parents}
        last = max((number for number, step in enumerate(self.plan) if read & set(step.stages)), default=-1)
        return (*self.plan[: last + 1], *table.steps)

    @cached_property
    def all_stages(self) -> tuple[Stage, ...]:
        """With those on demand, in order."""
        tables = [one for table in self.tables for one in (*table.cells, table.stage)]
        on_demand = self.quality.stages if self.quality else ()
        return in_order([*self.stages, *on_demand, *tables])

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """The steps of its jobs."""
        return (*self.plan, *self.quality_steps, *(step for table in self.tables for step in table.steps))


def classes_of(store: Store) -> tuple[str, ...]:
    """The defect classes of the store's data set."""
    return open_dataset(store.current(INSPECTION)).categories
