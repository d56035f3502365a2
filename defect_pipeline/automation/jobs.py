"""The chain as jobs: one run a class where there are classes, and a driver that runs the whole of it in order."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from defect_pipeline.assets.stage import STAGES, Pipeline, label, open_dataset
from defect_pipeline.automation.partitions import DEFECT_CLASS, defect_classes
from defect_pipeline.errors import PipelineError
from defect_pipeline.store import Store

log = logging.getLogger("defect_pipeline")


@dataclass(frozen=True)
class Step:
    """Assets that run together; once for each defect class where `partitioned`, or once for each cell of the first."""

    job: str
    assets: tuple[str, ...]
    partitioned: bool

    @property
    def cells(self) -> tuple[str, ...]:
        return STAGES[self.assets[0]].cells

    def partitions(self, store: Store) -> tuple[str | None, ...]:
        """What it runs for, one after the other."""
        return classes_of(store) if self.partitioned else self.cells or (None,)

    def job_definition(self) -> Any:
        """The Dagster job of these assets."""
        cells = dg.StaticPartitionsDefinition(list(self.cells)) if self.cells else None
        each = "defect class" if self.partitioned else "cell"
        return dg.define_asset_job(
            self.job,
            selection=dg.AssetSelection.assets(*self.assets),
            partitions_def=defect_classes if self.partitioned else cells,
            description=" → ".join(self.assets) + (f", one run for each {each}" if self.partitioned or cells else ""),
        )


PLAN = (
    Step("prepare", ("inspection_images", "defect_free_pool"), False),
    Step("draw", ("mask_bank", "topological_drivers"), True),
    Step("learn", ("concept_weights", "hypernetwork_weights"), False),
    Step("synthesise", ("sadf_images", "faithfulness_report", "copy_report", "sadf_accepted", "fid_report"), True),
    Step("join", ("class_report", "sadf_coco", "segmentor", "segmentation_report"), False),
)
PLANS = {
    "sadf": PLAN,
    "stablesdg": (
        Step("register", ("inspection_images",), False),
        Step(
            "adapt",
            (
                "token_embedding",
                "lora_weights",
                "strength_and_guidance",
                "stablesdg_images",
                "stablesdg_copy_report",
                "stablesdg_fid_report",
            ),
            True,
        ),
        Step("recognise", ("recognizer", "recognition_report"), False),
    ),
    "union": (
        Step("register", ("inspection_images",), False),
        Step(
            "unite",
            (
                "union_canvases",
                "union_drivers",
                "token_embedding",
                "lora_weights",
                "strength_and_guidance",
                "union_weights",
                "union_images",
                "union_faithfulness_report",
                "union_copy_report",
                "union_accepted",
                "union_fid_report",
            ),
            True,
        ),
        Step("join_union", ("union_class_report", "union_coco", "union_segmentor", "union_segmentation_report"), False),
    ),
}
QUALITY = (  # on demand, after the plan: what the generator is worth
    Step("judge_classes", ("kid_ladder", "agreement_report", "variety_report", "shape_report"), True),
    Step("judge", ("autoencoder_report", "order_report"), False),
)


def _experiment(name: str, *cells: str, before: tuple[Step, ...], partitioned: bool = False) -> tuple[Step, ...]:
    """What must be there first, a run for each cell of each asset of cells, and the table."""
    measured = tuple(Step(f"measure_{cell.removesuffix('_cell')}", (cell,), partitioned) for cell in cells)
    return (*before, *measured, Step(f"make_{name}", (name,), False))


EXPERIMENTS = {  # on demand, hours: the papers' tables, most of them from cells over seeds
    "sadf": {
        name: _experiment(name, f"{name}_cell", before=PLAN[:1])
        for name in ("table_1", "table_2", "table_3", "table_4")
    },
    "stablesdg": {
        **{
            name: _experiment(name, f"{name}_cell", before=PLANS["stablesdg"][:2], partitioned=True)
            for name in ("table_ii", "table_iii", "table_iv", "table_v")
        },
        "table_vi": _experiment("table_vi", "table_vi_cell", before=PLANS["stablesdg"][:1]),
        "figure_9": _experiment("figure_9", "table_vi_cell", "figure_9_cell", before=PLANS["stablesdg"][:1]),
    },
    "union": {"table_union": _experiment("table_union", before=PLANS["union"][:1])},
}

_steps = [
    *(step for plan in (*PLANS.values(), QUALITY) for step in plan),
    *(step for tables in EXPERIMENTS.values() for steps in tables.values() for step in steps),
]
jobs = [step.job_definition() for step in {step.job: step for step in _steps}.values()]


def failure_reasons(events: Iterable[dg.DagsterEvent]) -> Iterator[str]:
    """What each failed step of a run raised, not what that came from; a check that failed says so itself."""
    for event in events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
                error = error.cause
            yield "unknown" if error is None else " ".join(error.message.split(": ", 1)[-1].split())


def stale(asset: str, partition: str | None, store: Store, pipeline: Pipeline) -> bool:
    """Whether the current artifact is missing or not what would be made now; a missing parent makes a child stale."""
    try:
        wanted = STAGES[asset].digest(store, pipeline, partition)
        return store.find(asset, wanted, partition) is None or store.current(asset, partition).digest != wanted
    except PipelineError:
        return True


def run_everything(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    store: Store,
    pipeline: Pipeline,
    plan: tuple[Step, ...] | None = None,
) -> list[str]:
    """Run what is stale of a plan, by default that of the pipeline's system, step by step and class by class; the failures, a sentence each.

    A step with a failure is finished for the other classes, so that the user sees every report, and ends the run. A gate
    that a run before found closed holds the steps behind it back as well; what only measures goes on. Raises
    PipelineError for thresholds of a class that the images do not show.
    """
    from defect_pipeline.automation.checks import closed_gates  # which needs the plans

    closed: list[str] = []
    for step in plan or PLANS[pipeline.system]:
        if closed and step in PLANS[pipeline.system]:
            return closed
        failures = []
        if step.partitioned:
            pipeline.settings.thresholds.check_classes(classes_of(store))
            instance.add_dynamic_partitions(DEFECT_CLASS, list(classes_of(store)))  # to a history begun anew
        for partition in step.partitions(store):
            failures += run_stale(definitions, instance, store, pipeline, step.assets, partition, step.job)
        if failures:
            return failures
        closed += [str(gate) for gate in closed_gates(step, store, pipeline)]
    return []


def run_stale(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    store: Store,
    pipeline: Pipeline,
    assets: tuple[str, ...],
    partition: str | None = None,
    job: str = PLAN[0].job,
) -> list[str]:
    """Run these assets of a job in this process unless none of them is stale; what went wrong, a sentence each."""
    if not any(stale(asset, partition, store, pipeline) for asset in assets):
        log.info("%s: nothing changed", label(job, partition))
        return []
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    return [f"{label(job, partition)}: {reason}" for reason in failure_reasons(result.all_events)]


def classes_of(store: Store) -> tuple[str, ...]:
    """The defect classes of the store's data set."""
    return open_dataset(store.current("inspection_images")).categories
