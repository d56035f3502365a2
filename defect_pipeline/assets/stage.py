"""A stage: what is made of which stages and settings, how it is called, and how it is made at most once.

A stage's digest covers its name and version, the settings that it declares, the seed and its parents' content; an
artifact of that digest in the store is the finished stage, whoever made it. Of the inspection images the digest covers
those that the stage declares. The build is handed what is declared and can reach nothing else.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from defect_pipeline.allocator import keep_freed_memory, return_freed_memory
from defect_pipeline.declared import Declared, declared_values
from defect_pipeline.errors import MissingArtifactError, PipelineError
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.sheets import save_png
from defect_pipeline.imaging.splits import manifest_digest
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import Profile
from defect_pipeline.store import Artifact, Draft, Store, digest_of

log = logging.getLogger("defect_pipeline")
PICTURES = "pictures"
INSPECTION = "inspection_images"  # the stage that all data comes from
Inputs = dict[tuple[str, str | None], Artifact]  # parents by name and partition


@dataclass(frozen=True, eq=False)
class Stage:
    """What `stage` makes of a build function. Stages are told apart by identity, their artifacts by name."""

    name: str
    build: Callable[["Build"], None]
    parents: tuple["Stage", ...] = ()
    settings: tuple[str, ...] = ()  # of the profile, dotted: "drivers" or "drivers.size"
    options: tuple[str, ...] = ()  # of the pipeline, such as "part_regex"
    files: Callable[[Pipeline], Any] | None = None  # a digest of the files that the options name
    images: Callable[[Profile, int], Subset] | Subset | None = None  # of the inspection images; None: all
    reads: Mapping["Stage", str] = field(default_factory=dict)  # the only part of a parent that it reads
    makes: tuple["Stage", ...] = ()  # stages that the build makes itself, see `Build.chain`
    partitioned: bool = False  # one artifact for each defect class
    cells: tuple[str, ...] = ()  # its own partitions, where they are not the defect classes
    version: str = "1"  # of the code
    group: str = ""
    kinds: frozenset[str] = frozenset()
    gpu: bool = False

    def __repr__(self) -> str:
        return f"<stage {self.name}>"

    @property
    def description(self) -> str:
        """The first paragraph of its build function's docstring."""
        return (self.build.__doc__ or "").split("\n\n")[0].strip()

    @property
    def ancestors(self) -> tuple["Stage", ...]:
        """All that it is made from, parents first, and itself at the end."""
        return in_order([self], whole=True)

    def digest(self, store: Store, pipeline: Pipeline, partition: str | None) -> str:
        """What the artifact would be called if it were made now. Raises PipelineError while a parent is missing."""
        return self.digest_from(self.inputs(store, partition), pipeline, partition)

    def digest_from(self, inputs: Inputs, pipeline: Pipeline, partition: str | None) -> str:
        """What the artifact is called that is made from these parents."""
        subset = self.subset(pipeline)
        read = {parent.name: part for parent, part in self.reads.items()}
        parents = [
            (name, k, _subset_digest(subset, partition, artifact) if subset and name == INSPECTION else content(artifact, read.get(name)))
            for (name, k), artifact in inputs.items()
        ]  # fmt: skip
        return digest_of(self.name, self.declared(pipeline), pipeline.seed, parents)

    def declared(self, pipeline: Pipeline) -> list[Any]:
        """All that its artifact depends on beside the parents and the seed: version, settings, options, files."""
        files = self.files(self.declared_options(pipeline)) if self.files else self._options(pipeline)
        values = declared_values(pipeline.settings, self.settings)
        return [self.version, values, files, [made.declared(pipeline) for made in self.makes]]

    def code_version(self, pipeline: Pipeline) -> str:
        """Version and settings for the UI; `declared` without the content of files, since it is asked at each start."""
        values = declared_values(pipeline.settings, self.settings, weights=False)
        made = [one.code_version(pipeline) for one in self.makes]
        return f"{self.version}-{digest_of(values, self._options(pipeline), pipeline.seed, made)[:8]}"

    def _options(self, pipeline: Pipeline) -> dict[str, Any]:
        return {name: getattr(pipeline, name) for name in self.options}

    def declared_settings(self, pipeline: Pipeline) -> Profile:
        """The profile, of which it can read what it declares."""
        return cast(Profile, Declared(pipeline.settings, self.settings, self.name))

    def declared_options(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline, of which it can read what it declares."""
        return cast(Pipeline, Declared(pipeline, self.options, self.name))

    def subset(self, pipeline: Pipeline) -> Subset | None:
        """Which of the inspection images it reads; None: all."""
        if callable(self.images):
            return self.images(self.declared_settings(pipeline), pipeline.seed)
        return self.images

    def inputs(self, store: Store, partition: str | None) -> Inputs:
        """The current artifacts of its parents. Raises PipelineError while one is missing."""
        found: Inputs = {}
        for parent in self.parents:
            for k in self._partitions_of(parent, store, partition, found):
                found[parent.name, k] = store.current(parent.name, k)
        return found

    def _partitions_of(self, parent: "Stage", store: Store, own: str | None, found: Inputs) -> tuple[str | None, ...]:
        """Those of a parent: its cells, the class that this is made for, or all classes of the images ``found``."""
        if parent.cells or not parent.partitioned:
            return parent.cells or (None,)
        if self.partitioned:
            return (own,)
        return open_dataset(found.get((INSPECTION, None)) or store.current(INSPECTION)).categories

    def stale(self, store: Store, pipeline: Pipeline, partition: str | None) -> bool:
        """Whether the current artifact is missing or not what would be made now; a missing parent makes a child stale."""
        try:
            wanted = self.digest(store, pipeline, partition)
            known = store.find(self.name, wanted, partition)
            return known is None or store.current(self.name, partition).digest != wanted
        except PipelineError:
            return True

    def materialize(self, store: Store, pipeline: Pipeline, partition: str | None = None) -> tuple[Artifact, bool]:
        """The artifact, built unless the store has it; and whether it was there."""
        inputs = self.inputs(store, partition)
        digest = self.digest_from(inputs, pipeline, partition)
        known = store.find(self.name, digest, partition)
        if known is None:
            with store.alone(self.name, partition):
                known = store.find(self.name, digest, partition)  # which another process may have made meanwhile
                if known is None:
                    self._make(inputs, digest, store, pipeline, partition)
                    return store.current(self.name, partition), False
        store.set_current(known)
        return known, True

    def _make(self, inputs: Inputs, digest: str, store: Store, pipeline: Pipeline, partition: str | None) -> None:
        parents = {
            label(name, None if k == partition else k): artifact.digest for (name, k), artifact in inputs.items()
        }
        began = time.perf_counter()
        keep_freed_memory()
        log.info("%s ...", label(self.name, partition))
        with store.create(self.name, digest, partition, parents=parents) as draft:
            self.build(
                Build(self, inputs, partition, draft, store.workdir(self.name, digest, partition), store, pipeline)
            )
            draft.metadata["seconds"] = round(time.perf_counter() - began, 2)
            draft.metadata["seed"] = pipeline.seed
            draft.metadata["code_version"] = self.version
            if (INSPECTION, None) in inputs:
                draft.metadata["data digest"] = content(inputs[INSPECTION, None])
        return_freed_memory()
        log.info("%s done in %.1f s", label(self.name, partition), time.perf_counter() - began)


@dataclass
class Build:
    """What a build function works with: what its stage declares, a directory to fill, figures and pictures to show."""

    stage: Stage
    inputs: Inputs  # as the digest saw them: what another run makes meanwhile is the next run's
    partition: str | None
    draft: Draft
    workdir: Path  # for checkpoints; it outlives a kill and goes when the artifact is finished
    _store: Store
    _pipeline: Pipeline
    _reported: float = field(default_factory=time.monotonic)
    metadata: dict[str, Any] = field(init=False)  # what the UI shows: numbers, strings, lists of dicts as tables

    def __post_init__(self) -> None:
        self.metadata = self.draft.metadata

    @cached_property
    def settings(self) -> Profile:
        """The profile, of which the declared values can be read."""
        return self.stage.declared_settings(self._pipeline)

    @cached_property
    def options(self) -> Pipeline:
        """The pipeline, of which the declared options can be read."""
        return self.stage.declared_options(self._pipeline)

    @property
    def seed(self) -> int:
        return self._pipeline.seed

    @property
    def path(self) -> Path:
        """The directory of the artifact in the making."""
        return self.draft.path

    @property
    def defect_class(self) -> str:
        assert self.partition is not None
        return self.partition

    def read(self, parent: Stage, partition: str | None = None) -> Artifact:
        """The artifact of a parent, of this build's own class if the parent has classes and none is named.

        Raises KeyError for what the stage does not list, and for inspection images of which it reads a subset.
        """
        if parent not in self.stage.parents:
            raise KeyError(f"{self.stage.name} does not list {parent.name} as a parent")
        if parent.name == INSPECTION and self.subset is not None:
            raise KeyError(f"{self.stage.name} reads a subset of the images only: take it from `dataset`")
        if parent.partitioned and partition is None:
            partition = self.partition
        return self.inputs[parent.name, partition]

    def before(self) -> Artifact | None:
        """The artifact that this one replaces."""
        try:
            return self._store.current(self.stage.name, self.partition)
        except MissingArtifactError:
            return None

    def cache(self, name: str) -> Path:
        """A local directory for what can be made again at some cost; unlike the `workdir`, it stays."""
        return self._store.cache(name)

    def chain(self, store: Store | None = None, *, seed: int | None = None) -> "Chain":
        """To make the stages that this one declares to make: in a store, with a seed, by default its own."""
        changed = self._pipeline if seed is None else self._pipeline.model_copy(update={"seed": seed})
        return Chain(store or self._store, changed, self.stage)

    @cached_property
    def subset(self) -> Subset | None:
        """Which of the inspection images the stage reads; None: all."""
        return self.stage.subset(self._pipeline)

    @cached_property
    def dataset(self) -> Dataset:
        """The inspection images that the stage reads."""
        whole = open_dataset(self.inputs[INSPECTION, None])
        return whole if self.subset is None else self.subset.of(whole, self.partition)

    @property
    def classes(self) -> tuple[str, ...]:
        """Defect classes of the component, in the order that gives them colours and category ids.

        Raises KeyError where the stage does not read all of them.
        """
        if self.subset is not None and self.subset.classes != "all":
            raise KeyError(f"{self.stage.name} does not read the names of all classes")
        return self.dataset.categories

    @property
    def colours(self) -> dict[str, tuple[int, int, int]]:
        """RGB of the defect classes, at least of those shown. Raises KeyError where the stage does not read their ranks."""
        if self.subset is not None and self.subset.classes == "shown":
            raise KeyError(f"{self.stage.name} does not read the ranks of the classes")
        return class_colours(self.dataset.categories)

    def keep(self, report: Any) -> None:
        """Write a dataclass, or a list or dict of them, as the artifact's report; `Artifact.load` reads it."""
        self.draft.keep(report)

    def picture(self, name: str, image: np.ndarray) -> None:
        """Keep an (H, W, 3) uint8 picture in the artifact and show it in the UI."""
        (self.path / PICTURES).mkdir(exist_ok=True)
        save_png(self.path / PICTURES / f"{name}.png", image)

    def progress(self, done: int, total: int, **figures: float) -> None:
        """Log where a long build stands, at most every five seconds and at its end."""
        if done < total and time.monotonic() - self._reported < 5:
            return
        self._reported = time.monotonic()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("%s %d/%d  %s", label(self.stage.name, self.partition), done, total, shown)


@dataclass(frozen=True)
class Chain:
    """Stages made on behalf of another, which declares them."""

    store: Store
    pipeline: Pipeline
    on_behalf_of: Stage

    def make(self, made: Stage) -> dict[str | None, Artifact]:
        """The artifacts of a stage, one for each defect class (or for None), made where they are not there yet.

        Raises KeyError for a stage that is not declared.
        """
        return {k: self.make_one(made, k) for k in (self.dataset.categories if made.partitioned else (None,))}

    def make_one(self, made: Stage, partition: str | None) -> Artifact:
        """That of one partition."""
        if made not in self.on_behalf_of.makes:
            raise KeyError(f"{self.on_behalf_of.name} does not declare that it makes {made.name}")
        return made.materialize(self.store, self.pipeline, partition)[0]

    def read(self, made: Stage, partition: str | None = None) -> Artifact:
        """The current artifact of a stage."""
        return self.store.current(made.name, partition)

    @property
    def dataset(self) -> Dataset:
        """The inspection images of the store."""
        return open_dataset(self.store.current(INSPECTION))


def stage(
    *,
    parents: tuple[Stage, ...],
    group: str,
    kinds: set[str],
    name: str | None = None,
    **declared: Any,
) -> Callable[[Callable[[Build], None]], Stage]:
    """Make a build function a `Stage`, by default of its own name; ``declared`` are other fields of `Stage`.

    The first paragraph of the function's docstring is the description in the UI.
    """

    def wrap(build: Callable[[Build], None]) -> Stage:
        return Stage(name or build.__name__, build, parents, group=group, kinds=frozenset(kinds), **declared)

    return wrap


def in_order(stages: "list[Stage] | tuple[Stage, ...]", *, whole: bool = False) -> tuple[Stage, ...]:
    """Stages so that each comes after its parents, else as they stand; ``whole``: with all that they are made from."""

    def walk(one: Stage) -> Iterator[Stage]:
        for parent in one.parents:
            yield from walk(parent)
        if whole or one in stages:
            yield one

    return tuple(dict.fromkeys(found for one in stages for found in walk(one)))


def content(artifact: Artifact, part: str | None = None) -> str:
    """What children depend on that read all of it or a ``part``: the digest of what is inside where the artifact tells
    it, else of how it was made."""
    return artifact.contents.get(part or "", artifact.digest)


def open_dataset(artifact: Artifact) -> Dataset:
    """The data set that an `inspection_images` artifact describes."""
    return _dataset(artifact.path, data_root(artifact), content(artifact))


def data_root(artifact: Artifact) -> Path:
    """Where the images of an `inspection_images` artifact lie; a root that it notes relative is below its store."""
    return (artifact.path.parents[2] / artifact.contents["root"]).resolve()


def dataset_digest(dataset: Dataset) -> str:
    """Covers all that a reader can see of the images: files, instances, classes, groups and split."""
    return digest_of(dataset.digest, manifest_digest(dataset.images))


@functools.lru_cache(maxsize=4)  # a look at what is stale asks once for each stage and class
def _dataset(path: Path, root: Path, content: str) -> Dataset:
    return Dataset.load(path, root)


def _subset_digest(subset: Subset, own: str | None, artifact: Artifact) -> str:
    return _digest_of_subset(subset, own, artifact.path, data_root(artifact), content(artifact))


@functools.lru_cache(maxsize=1024)
def _digest_of_subset(subset: Subset, own: str | None, path: Path, root: Path, content: str) -> str:
    return dataset_digest(subset.of(_dataset(path, root, content), own))


def label(asset: str, partition: str | None) -> str:
    return f"{asset} [{partition}]" if partition else asset
