"""Stages as Dagster assets, and checks as Dagster checks."""

import warnings
from typing import Any

import dagster as dg

from defect_pipeline.assets.checks import Check, evaluate
from defect_pipeline.assets.stage import INSPECTION, PICTURES, Stage, content, open_dataset
from defect_pipeline.assets.worst import Worst
from defect_pipeline.automation.gpu import GPU_POOL, gpu_tags
from defect_pipeline.automation.partitions import DEFECT_CLASS, defect_classes
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, thumbnail_markdown
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.store import Artifact, Store

OWNERS = ["team:defect-pipeline"]


def asset_of(stage: Stage, settings: Pipeline) -> dg.AssetsDefinition:
    """The asset of a stage; its code version covers the ``settings``, so that Dagster's own staleness does."""
    cells = dg.StaticPartitionsDefinition(list(stage.cells)) if stage.cells else None

    @dg.asset(
        name=stage.name,
        deps=[_dependency(parent, stage) for parent in stage.parents],
        partitions_def=defect_classes if stage.partitioned else cells,
        group_name=stage.group,
        owners=OWNERS,
        kinds=set(stage.kinds),
        code_version=stage.code_version(settings),
        description=stage.description,
        pool=GPU_POOL if stage.gpu else None,
        op_tags=gpu_tags() if stage.gpu else None,
    )
    def asset(
        context: dg.AssetExecutionContext, store: Store, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.MaterializeResult:
        partition = context.partition_key if stage.partitioned or stage.cells else None
        artifact, reused = stage.materialize(store, pipeline, partition)
        if stage.name == INSPECTION:
            context.instance.add_dynamic_partitions(DEFECT_CLASS, list(open_dataset(artifact).categories))
        return dg.MaterializeResult(
            metadata=_described(artifact) | {"reused": reused}, data_version=dg.DataVersion(content(artifact))
        )

    return asset


def _dependency(parent: Stage, child: Stage) -> dg.AssetDep:
    """From a partitioned parent to an unpartitioned child: all of its partitions."""
    if parent.cells or (parent.partitioned and not child.partitioned):
        return dg.AssetDep(parent.name, partition_mapping=dg.AllPartitionMapping())
    return dg.AssetDep(parent.name)


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


def asset_check_of(check: Check) -> dg.AssetChecksDefinition:
    """The asset check of a check, of each class where its stage has classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # partitioned checks: used knowingly, see the tests

        @dg.asset_check(
            name=check.name,
            asset=check.stage.name,
            description=check.description,
            blocking=check.blocking,
            partitions_def=defect_classes if check.partitioned else None,
        )
        def run(
            context: dg.AssetCheckExecutionContext, store: Store, pipeline: dg.ResourceParam[Pipeline]
        ) -> dg.AssetCheckResult:
            partition = context.partition_key if check.partitioned else None
            verdict = evaluate(check, store, pipeline.settings, partition)
            shown = verdict.figures | {"problems": len(verdict.problems)}
            if verdict.problems:
                shown["first problems"] = dg.MetadataValue.md("\n".join(f"- {p}" for p in verdict.problems[:20]))
            if verdict.worst and verdict.worst.images:
                shown[f"worst: {verdict.worst.by}"] = dg.MetadataValue.md(_sheet_of(verdict.worst))
            return dg.AssetCheckResult(passed=not verdict.problems, metadata=shown)

    return run


def _sheet_of(worst: Worst) -> str:
    names = [f"{path.stem}: {value:.3g}" for path, value in worst.images]
    return thumbnail_markdown(contact_sheet([read_image(path) for path, _ in worst.images], names, columns=6))
