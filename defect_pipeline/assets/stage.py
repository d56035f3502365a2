"""What every asset of the chain shares: read parents, skip when nothing changed, build, describe.

A stage is a build function and what it depends on. Its digest covers its name and version, its part of the profile, the
seed and its parents' content; an artifact of that digest in the store is the finished stage, whoever made it. Of the
inspection images the digest covers those that the stage declares, and the build is given no others: an image that
joins, goes or is annotated anew touches what reads it.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from defect_pipeline.allocator import keep_freed_memory, return_freed_memory
from defect_pipeline.automation.gpu import GPU_POOL, gpu_tags
from defect_pipeline.automation.partitions import defect_classes
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_png, thumbnail_markdown
from defect_pipeline.imaging.splits import manifest_digest
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.profiles import Profile, load_profile
from defect_pipeline.store import Artifact, Draft, Store, digest_of
from defect_pipeline.thresholds import read_thresholds

log = logging.getLogger("defect_pipeline")
PICTURES = "pictures"
OWNERS = ["team:defect-pipeline"]
INSPECTION = "inspection_images"  # the stage that all data comes from
Inputs = dict[tuple[str, str | None], Artifact]  # parents by name and partition


class Pipeline(dg.ConfigurableResource):
    """What a run works on: the folder of images, the profile by name, the seed."""

    data: str
    profile: str = "embedded"
    seed: int = 0
    system: str = "sadf"  # "stablesdg" or "union": whose chain the plan is, one of the two papers' or that of both
    part_regex: str = ""  # its first group (or the one named "part") is a part's id within a file name
    drawn_masks: str = ""  # folder with one folder of hand-drawn masks for each class
    placement_maps: str = ""  # folder with a hand-drawn map for each class: the brighter, the likelier
    thresholds: str = ""  # TOML file of those that differ from the profile's
    home: str = ""  # the folder of the store: data that lies in it moves with it

    @property
    def settings(self) -> Profile:
        """The profile, with the thresholds of the file. Raises PipelineError where either is not there or not valid."""
        profile = load_profile(self.profile)
        if not self.thresholds:
            return profile
        return replace(profile, thresholds=read_thresholds(Path(self.thresholds), profile.thresholds))

    @property
    def root(self) -> Path:
        return Path(self.data).resolve()

    @property
    def recorded_root(self) -> str:
        """The root as the store notes it: relative to `home` where the data lies in it, else absolute."""
        home = Path(self.home).resolve()
        inside = self.home and self.root.is_relative_to(home)
        return self.root.relative_to(home).as_posix() if inside else str(self.root)


SubsetOf = Subset | Callable[[Pipeline], Subset]  # the same in any case, or as the pipeline is set


@dataclass
class Build:
    """What a build function works with: parents to read, a draft directory to fill, figures and pictures to show."""

    stage: "Stage"
    inputs: Inputs  # as the digest saw them: what another run makes meanwhile is the next run's
    store: Store
    pipeline: Pipeline
    draft: Draft
    partition: str | None
    context: dg.AssetExecutionContext
    workdir: Path
    last_report: float = field(default_factory=time.monotonic)
    metadata: dict[str, Any] = field(
        init=False
    )  # for the UI and the manifest: numbers, strings, lists of dicts as tables

    def __post_init__(self) -> None:
        self.metadata = self.draft.metadata

    @property
    def settings(self) -> Profile:
        return self.pipeline.settings

    @property
    def subset(self) -> Subset | None:
        """Which of the inspection images the stage reads; None: all."""
        return self.stage.subset(self.pipeline)

    @property
    def path(self) -> Path:
        """The directory of the artifact in the making."""
        return self.draft.path

    @property
    def defect_class(self) -> str:
        assert self.partition is not None
        return self.partition

    def parent(self, name: str, partition: str | None = None) -> Artifact:
        """The artifact of a parent, of this build's own class if the parent has classes and none is named.

        Raises KeyError for what the stage does not list, and for inspection images of which it reads a subset.
        """
        name = self.named(name)
        if name not in self.stage.parents:
            raise KeyError(f"{self.stage.name} does not list {name} as a parent")
        if name == INSPECTION and self.subset is not None:
            raise KeyError(f"{self.stage.name} reads a subset of the images only: take it from `dataset`")
        if STAGES[name].partitioned and partition is None:
            partition = self.partition
        return self.inputs[name, partition]

    def named(self, name: str) -> str:
        """What a stage is called in the chain of this build."""
        return self.stage.instead.get(name, name)

    def dataset(self) -> Dataset:
        """The inspection images that the stage reads."""
        return self._dataset

    @cached_property
    def _dataset(self) -> Dataset:
        whole = open_dataset(self.inputs[INSPECTION, None])
        return whole if self.subset is None else self.subset.of(whole, self.partition)

    def classes(self) -> tuple[str, ...]:
        """Defect classes of the component, in the order that gives them colours and category ids.

        Raises KeyError where the stage does not read all of them.
        """
        if self.subset is not None and self.subset.classes != "all":
            raise KeyError(f"{self.stage.name} does not read the names of all classes")
        return self.dataset().categories

    def colours(self) -> dict[str, tuple[int, int, int]]:
        """RGB of the defect classes, at least of those shown. Raises KeyError where the stage does not read their ranks."""
        if self.subset is not None and self.subset.classes == "shown":
            raise KeyError(f"{self.stage.name} does not read the ranks of the classes")
        return class_colours(self.dataset().categories)

    def picture(self, name: str, image: np.ndarray) -> None:
        """Keep an (H, W, 3) uint8 picture in the artifact and show it in the UI."""
        (self.path / PICTURES).mkdir(exist_ok=True)
        save_png(self.path / PICTURES / f"{name}.png", image)

    def progress(self, done: int, total: int, **figures: float) -> None:
        """Log where a long build stands, at most every five seconds and at its end."""
        if done < total and time.monotonic() - self.last_report < 5:
            return
        self.last_report = time.monotonic()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("%s %d/%d  %s", label(self.stage.name, self.partition), done, total, shown)


@dataclass(frozen=True)
class Stage:
    """A stage as `stage` describes it."""

    name: str
    build: Callable[[Build], None]
    parents: tuple[str, ...]
    settings: Callable[[Pipeline], Any]
    version: str
    group: str
    kinds: frozenset[str]
    partitioned: bool
    cells: tuple[str, ...]  # its own partitions, where they are not the defect classes
    images: SubsetOf | None  # which of the inspection images it reads; None: all
    gpu: bool
    instead: Mapping[str, str]  # parents by the names that its build function knows them under
    reads: Mapping[str, str] = field(default_factory=dict)  # the only part of a parent, by its name, that it reads

    @property
    def description(self) -> str:
        """The first paragraph of its build function's docstring."""
        return (self.build.__doc__ or "").split("\n\n")[0].strip()

    def digest(self, store: Store, pipeline: Pipeline, partition: str | None) -> str:
        """What the artifact would be called if it were made now. Raises PipelineError while a parent is missing."""
        return self.digest_from(self.inputs(store, partition), pipeline, partition)

    def digest_from(self, inputs: Inputs, pipeline: Pipeline, partition: str | None) -> str:
        """What the artifact is called that is made from these parents."""
        subset = self.subset(pipeline)
        parents = [
            (name, k, self._read_of(name, artifact, subset, partition)) for (name, k), artifact in inputs.items()
        ]
        return digest_of(self.name, self.version, self.settings(pipeline), pipeline.seed, parents)

    def subset(self, pipeline: Pipeline) -> Subset | None:
        """Which of the inspection images it reads; None: all."""
        return self.images(pipeline) if callable(self.images) else self.images

    def inputs(self, store: Store, partition: str | None) -> Inputs:
        """The current artifacts of its parents. Raises PipelineError while one is missing."""
        found: Inputs = {}
        for name in self.parents:
            found |= {(name, k): store.current(name, k) for k in self._partitions_of(name, store, partition, found)}
        return found

    def _partitions_of(self, name: str, store: Store, own: str | None, found: Inputs) -> tuple[str | None, ...]:
        """Those of a parent: its cells, the class that this is made for, or all classes of the images ``found``."""
        if STAGES[name].cells or not STAGES[name].partitioned:
            return STAGES[name].cells or (None,)
        if self.partitioned:
            return (own,)
        return open_dataset(found.get((INSPECTION, None)) or store.current(INSPECTION)).categories

    def _read_of(self, name: str, parent: Artifact, subset: Subset | None, partition: str | None) -> str:
        if name != INSPECTION or subset is None:
            return content(parent, self.reads.get(name))
        return _subset_digest(subset, partition, parent.path, data_root(parent), content(parent))


STAGES: dict[str, Stage] = {}


def content(artifact: Artifact, part: str | None = None) -> str:
    """What children depend on that read all of it or a ``part``: the digest of what is inside where the artifact tells
    it, else of how it was made."""
    return artifact.metadata.get(content_of(part), artifact.digest)


def content_of(part: str | None = None) -> str:
    """The name under which an artifact tells its content, or that of a part, among its metadata."""
    return f"content of {part}" if part else "content"


def open_dataset(artifact: Artifact) -> Dataset:
    """The data set an `inspection_images` artifact describes."""
    return _dataset(artifact.path, data_root(artifact), content(artifact))


def data_root(artifact: Artifact) -> Path:
    """Where the images of an `inspection_images` artifact lie; a root that it notes relative is below its store."""
    return (artifact.path.parents[2] / artifact.metadata["root"]).resolve()


def dataset_digest(dataset: Dataset) -> str:
    """Covers all that a reader can see of the images: files, instances, classes, groups and split."""
    return digest_of(dataset.digest, manifest_digest(dataset.images))


@functools.lru_cache(maxsize=4)  # a look at what is stale asks once for each stage and class
def _dataset(path: Path, root: Path, content: str) -> Dataset:
    return Dataset.load(path, root)


@functools.lru_cache(maxsize=1024)
def _subset_digest(subset: Subset, own: str | None, path: Path, root: Path, content: str) -> str:
    return dataset_digest(subset.of(_dataset(path, root, content), own))


def chain_settings(pipeline: Pipeline, *stages: str) -> list[tuple[str, Any]]:
    """What a chain of these stages depends on."""
    return [(STAGES[name].version, STAGES[name].settings(pipeline)) for name in stages]


def label(asset: str, partition: str | None) -> str:
    return f"{asset} [{partition}]" if partition else asset


def stage(
    *,
    parents: tuple[str, ...],
    settings: Callable[[Pipeline], Any],
    group: str,
    kinds: set[str],
    version: str = "1",
    partitioned: bool = False,
    cells: tuple[str, ...] = (),
    images: SubsetOf | None = None,
    gpu: bool = False,
    instead: Mapping[str, str] | None = None,
    reads: Mapping[str, str] | None = None,
) -> Callable[[Callable[[Build], None]], dg.AssetsDefinition]:
    """Make a build function the asset of its name; its docstring's first line is the description in the UI.

    ``settings`` picks what the artifact depends on beside its parents: its part of the profile. It is made once for each
    defect class where it is ``partitioned``, or once for each of ``cells``. ``images`` is the subset of the inspection
    images that it reads, or a function of the pipeline that tells it, all of them by default: the build sees no others,
    and changes in others do not touch it. ``gpu``
    puts the step into the GPU pool and tags it for Ray, Kubernetes and Celery. ``instead`` tells functions that ask for
    another chain's stage, by whose name they know it, which of the ``parents`` takes its place. ``reads`` names parents
    of which the stage reads a part only, one whose `content_of` they tell: what else changes in them does not touch it.
    """

    def wrap(build: Callable[[Build], None]) -> dg.AssetsDefinition:
        return _asset(
            Stage(
                build.__name__, build, parents, settings, version, group, frozenset(kinds), partitioned, cells, images,
                gpu, instead or {}, reads or {},
            )
        )  # fmt: skip

    return wrap


def stage_like(name: str, instead: Mapping[str, str], *, group: str) -> dg.AssetsDefinition:
    """The asset ``instead[name]``: what the stage ``name`` does, with other parents in the place of its own."""
    like = STAGES[name]
    parents = tuple(dict.fromkeys(instead.get(parent, parent) for parent in like.parents))
    return _asset(replace(like, name=instead[name], parents=parents, group=group, instead=instead))


def _asset(made: Stage) -> dg.AssetsDefinition:
    """Register a stage, and make it known to Dagster."""
    own_partitions = dg.StaticPartitionsDefinition(list(made.cells)) if made.cells else None
    STAGES[made.name] = made

    @dg.asset(
        name=made.name,
        deps=[_dependency(name, made.partitioned) for name in made.parents],
        partitions_def=defect_classes if made.partitioned else own_partitions,
        group_name=made.group,
        owners=OWNERS,
        kinds=set(made.kinds),
        code_version=made.version,
        description=made.description,
        pool=GPU_POOL if made.gpu else None,
        op_tags=gpu_tags() if made.gpu else None,
    )
    def asset(context: dg.AssetExecutionContext, store: Store, pipeline: Pipeline) -> dg.MaterializeResult:
        partition = context.partition_key if made.partitioned or made.cells else None
        artifact, reused = materialize(made, context, store, pipeline, partition)
        return dg.MaterializeResult(
            metadata=_described(artifact) | {"reused": reused}, data_version=dg.DataVersion(content(artifact))
        )

    return asset


def materialize(
    made: Stage, context: dg.AssetExecutionContext, store: Store, pipeline: Pipeline, partition: str | None
) -> tuple[Artifact, bool]:
    """The stage's artifact, built unless the store has it; and whether it was there."""
    inputs = made.inputs(store, partition)
    digest = made.digest_from(inputs, pipeline, partition)
    known = store.find(made.name, digest, partition)
    if known is None:
        with store.alone(made.name, partition):
            known = store.find(made.name, digest, partition)  # which another process may have made meanwhile
            if known is None:
                _build(made, inputs, digest, context, store, pipeline, partition)
                return store.current(made.name, partition), False
    store.set_current(known)
    return known, True


def _build(
    made: Stage, inputs: Inputs, digest: str, context: dg.AssetExecutionContext, store: Store, pipeline: Pipeline,
    partition: str | None,
) -> None:  # fmt: skip
    parents = {label(name, None if k == partition else k): artifact.digest for (name, k), artifact in inputs.items()}
    began = time.perf_counter()
    keep_freed_memory()
    log.info("%s ...", label(made.name, partition))
    workdir = store.workdir(made.name, digest, partition)
    with store.create(made.name, digest, partition, parents=parents) as draft:
        made.build(Build(made, inputs, store, pipeline, draft, partition, context, workdir))
        draft.metadata["seconds"] = round(time.perf_counter() - began, 2)
        draft.metadata["seed"] = pipeline.seed
        draft.metadata["code_version"] = made.version
        if (INSPECTION, None) in inputs:
            draft.metadata["data digest"] = content(inputs[INSPECTION, None])
    return_freed_memory()
    log.info("%s done in %.1f s", label(made.name, partition), time.perf_counter() - began)


def _dependency(name: str, partitioned: bool) -> dg.AssetDep:
    """From a partitioned parent to an unpartitioned child: all of its partitions."""
    if STAGES[name].cells or (STAGES[name].partitioned and not partitioned):
        return dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping())
    return dg.AssetDep(name)


def _described(artifact: Artifact) -> dict[str, Any]:
    """Dagster metadata of an artifact, in the order of the UI: a thumbnail of every picture with the place of the picture
    itself, figures and tables, what it was made from."""
    described: dict[str, Any] = {"artifact": dg.MetadataValue.path(str(artifact.path))}
    for picture in sorted((artifact.path / PICTURES).glob("*.png")):
        described[f"picture: {picture.stem}"] = dg.MetadataValue.md(thumbnail_markdown(read_image(picture)))
        described[f"picture: {picture.stem}, in full"] = dg.MetadataValue.path(str(picture))
    for name, value in artifact.metadata.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            described[name] = dg.MetadataValue.table([dg.TableRecord(row) for row in value])
        else:
            described[name] = value
    described["digest"] = artifact.digest
    if artifact.parents:
        rows = [dg.TableRecord({"parent": name, "digest": digest}) for name, digest in artifact.parents.items()]
        described["made from"] = dg.MetadataValue.table(rows)
    return described
