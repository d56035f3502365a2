"""What every asset of the chain shares: read parents, skip when nothing changed, build, describe.

A stage is a build function and what it depends on. Its digest covers its name and version, its part of the profile, the
seed and its parents' content; an artifact of that digest in the store is the finished stage, whoever made it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from defect_pipeline.allocator import keep_freed_memory
from defect_pipeline.automation.gpu import GPU_POOL, gpu_tags
from defect_pipeline.automation.partitions import defect_classes
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_png, thumbnail_markdown
from defect_pipeline.profiles import Profile, load_profile
from defect_pipeline.store import Artifact, Draft, Store, digest_of

log = logging.getLogger("defect_pipeline")
PICTURES = "pictures"
OWNERS = ["team:defect-pipeline"]


class Pipeline(dg.ConfigurableResource):
    """What a run works on: the folder of images, the profile by name, the seed."""

    data: str
    profile: str = "embedded"
    seed: int = 0
    system: str = "sadf"  # or "stablesdg": which of the two papers' chains the plan is
    part_regex: str = ""  # its first group (or the one named "part") is a part's id within a file name
    drawn_masks: str = ""  # folder with one folder of hand-drawn masks for each class
    placement_maps: str = ""  # folder with a hand-drawn map for each class: the brighter, the likelier

    @property
    def settings(self) -> Profile:
        return load_profile(self.profile)

    @property
    def root(self) -> Path:
        return Path(self.data).resolve()


@dataclass
class Build:
    """What a build function works with: parents to read, a draft directory to fill, figures and pictures to show."""

    stage: "Stage"
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
    def path(self) -> Path:
        """The directory of the artifact in the making."""
        return self.draft.path

    @property
    def defect_class(self) -> str:
        assert self.partition is not None
        return self.partition

    def parent(self, name: str, partition: str | None = None) -> Artifact:
        """The current artifact of a parent, of this build's own class if the parent has classes and none is named."""
        if name not in self.stage.parents:
            raise KeyError(f"{self.stage.name} does not list {name} as a parent")
        if STAGES[name].partitioned and partition is None:
            partition = self.partition
        return self.store.current(name, partition)

    def dataset(self) -> Dataset:
        """The inspection images."""
        return self._dataset

    @cached_property
    def _dataset(self) -> Dataset:
        return open_dataset(self.parent("inspection_images"))

    def classes(self) -> tuple[str, ...]:
        """Defect classes of the component, in the order that gives them colours and category ids."""
        return self.dataset().categories

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
    name: str
    build: Callable[[Build], None]
    parents: tuple[str, ...]
    settings: Callable[[Pipeline], Any]
    version: str
    partitioned: bool
    cells: tuple[str, ...] = ()  # its own partitions, where they are not the defect classes

    def digest(self, store: Store, pipeline: Pipeline, partition: str | None) -> str:
        """What the artifact would be called if it were made now. Raises PipelineError while a parent is missing."""
        parents = {name: self._parent_content(store, name, partition) for name in self.parents}
        return digest_of(self.name, self.version, self.settings(pipeline), pipeline.seed, parents)

    def _parent_content(self, store: Store, name: str, partition: str | None) -> Any:
        if STAGES[name].cells:
            return {cell: content(store.current(name, cell)) for cell in STAGES[name].cells}
        if not STAGES[name].partitioned:
            return content(store.current(name))
        if self.partitioned:
            return content(store.current(name, partition))
        classes = open_dataset(store.current("inspection_images")).categories
        return {k: content(store.current(name, k)) for k in classes}


STAGES: dict[str, Stage] = {}


def content(artifact: Artifact) -> str:
    """What children depend on: the digest of what is inside where the artifact says so, else of how it was made."""
    return artifact.metadata.get("content", artifact.digest)


def open_dataset(artifact: Artifact) -> Dataset:
    """The data set an `inspection_images` artifact describes."""
    return Dataset.load(artifact.path, Path(artifact.metadata["root"]))


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
    gpu: bool = False,
) -> Callable[[Callable[[Build], None]], dg.AssetsDefinition]:
    """Make a build function the asset of its name; its docstring's first line is the description in the UI.

    ``settings`` picks what the artifact depends on beside its parents: its part of the profile. It is made once for each
    defect class where it is ``partitioned``, or once for each of ``cells``. ``gpu`` puts the step into the GPU pool and
    tags it for Ray, Kubernetes and Celery.
    """

    def wrap(build: Callable[[Build], None]) -> dg.AssetsDefinition:
        made = Stage(build.__name__, build, parents, settings, version, partitioned, cells)
        own_partitions = dg.StaticPartitionsDefinition(list(cells)) if cells else None
        STAGES[made.name] = made

        @dg.asset(
            name=made.name,
            deps=[_dependency(name, partitioned) for name in parents],
            partitions_def=defect_classes if partitioned else own_partitions,
            group_name=group,
            owners=OWNERS,
            kinds=kinds,
            code_version=version,
            description=(build.__doc__ or "").split("\n\n")[0].strip(),
            pool=GPU_POOL if gpu else None,
            op_tags=gpu_tags() if gpu else None,
        )
        def asset(context: dg.AssetExecutionContext, store: Store, pipeline: Pipeline) -> dg.MaterializeResult:
            partition = context.partition_key if made.partitioned or made.cells else None
            artifact, reused = materialize(made, context, store, pipeline, partition)
            return dg.MaterializeResult(
                metadata=_described(artifact) | {"reused": reused}, data_version=dg.DataVersion(content(artifact))
            )

        return asset

    return wrap


def materialize(
    made: Stage, context: dg.AssetExecutionContext, store: Store, pipeline: Pipeline, partition: str | None
) -> tuple[Artifact, bool]:
    """The stage's artifact, built unless the store has it; and whether it was there."""
    digest = made.digest(store, pipeline, partition)
    known = store.find(made.name, digest, partition)
    if known is not None:
        store.set_current(known)
        return known, True
    parents = {}
    for name in made.parents:
        if not STAGES[name].cells and (not STAGES[name].partitioned or made.partitioned):
            parents[name] = store.current(name, partition if STAGES[name].partitioned else None).digest
    began = time.perf_counter()
    keep_freed_memory()
    log.info("%s ...", label(made.name, partition))
    workdir = store.workdir(made.name, digest, partition)
    with store.create(made.name, digest, partition, parents=parents) as draft:
        made.build(Build(made, store, pipeline, draft, partition, context, workdir))
        draft.metadata["seconds"] = round(time.perf_counter() - began, 2)
        draft.metadata["seed"] = pipeline.seed
        draft.metadata["code_version"] = made.version
    log.info("%s done in %.1f s", label(made.name, partition), time.perf_counter() - began)
    return store.current(made.name, partition), False


def _dependency(name: str, partitioned: bool) -> dg.AssetDep:
    """From a partitioned parent to an unpartitioned child: all of its partitions."""
    if STAGES[name].cells or (STAGES[name].partitioned and not partitioned):
        return dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping())
    return dg.AssetDep(name)


def _described(artifact: Artifact) -> dict[str, Any]:
    """Dagster metadata of an artifact: its figures and tables, and a thumbnail of every picture."""
    described: dict[str, Any] = {"artifact": dg.MetadataValue.path(str(artifact.path)), "digest": artifact.digest}
    for name, value in artifact.metadata.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            described[name] = dg.MetadataValue.table([dg.TableRecord(row) for row in value])
        else:
            described[name] = value
    for picture in sorted((artifact.path / PICTURES).glob("*.png")):
        described[f"picture: {picture.stem}"] = dg.MetadataValue.md(_thumbnail(picture))
    if artifact.parents:
        described["made from"] = dg.MetadataValue.json(artifact.parents)
    return described


def _thumbnail(picture: Path) -> str:
    return thumbnail_markdown(read_image(picture))
