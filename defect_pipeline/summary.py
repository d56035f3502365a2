"""What a run ends with: tables of figures, the verdicts, and where to look."""

import math

from rich.console import Console
from rich.table import Table

from defect_pipeline.assets.fid import Report
from defect_pipeline.assets.segmentation import read_figures
from defect_pipeline.assets.stage import PICTURES, Pipeline, open_dataset
from defect_pipeline.automation.checks import CHECKS, evaluate
from defect_pipeline.errors import PipelineError
from defect_pipeline.store import Store


def print_summary(console: Console, store: Store, pipeline: Pipeline) -> bool:
    """Print what the store has, as far as a run came; True when all of it is there and every check passed."""
    try:
        dataset = open_dataset(store.current("inspection_images"))
    except PipelineError:
        return False
    passed = True
    table = Table(
        "class", "real train/held-out", "synthetic", "KID (95 % CI)", "KID floor", "FID", "FID floor (n)", "checks"
    )
    for k in dataset.categories:
        failed = [c.name for c in CHECKS if c.partitioned and _fails(c, store, pipeline, k)]
        passed &= not failed
        table.add_row(
            k, _real(dataset, k), *_figures(store, k), f"[bold red]{', '.join(failed)}" if failed else "[green]passed"
        )
    console.print(table)
    failed = [c.name for c in CHECKS if not c.partitioned and _fails(c, store, pipeline, None)]
    console.print("Checks of the whole set:", f"[bold red]{', '.join(failed)} failed" if failed else "[green]passed")
    try:
        _print_segmentation(console, store)
        sheet = store.current("sadf_coco").path / PICTURES / "contact sheet.png"
        console.print(f"Contact sheet: {sheet}", soft_wrap=True, highlight=False)
    except PipelineError:
        return False
    return passed and not failed


def _real(dataset, defect_class: str) -> str:
    sides = dataset.images.loc[dataset.of_class(defect_class), "split"]
    return f"{(sides == 'train').sum()} / {(sides != 'train').sum()}"


def _figures(store: Store, defect_class: str) -> list[str]:
    try:
        report = Report.read(store.current("fid_report", defect_class).path).held_out
    except PipelineError:
        return ["-"] * 5
    floor = "-" if math.isnan(report.floor_fid) else f"{report.floor_fid:.1f} ({report.n_floor})"
    return [
        str(report.n_synthetic), f"{report.kid:.3f} ({report.kid_low:.3f} … {report.kid_high:.3f})",
        f"{report.floor_kid:.3f}", f"{report.fid:.1f}", floor,
    ]  # fmt: skip


def _fails(check, store: Store, pipeline: Pipeline, partition: str | None) -> bool:
    try:
        return not evaluate(check, store, pipeline, partition).passed
    except PipelineError:  # the run did not come so far
        return True


def _print_segmentation(console: Console, store: Store) -> None:
    table = Table(
        "regime", "segm mAP", "AP50", "bbox mAP", "IoU", "HD", "strict IoU", "strict HD", "strict HD95", "n images"
    )
    for regime, f in read_figures(store.current("segmentation_report").path).items():
        shown = (f.segm_map, f.segm_ap50, f.bbox_map, f.iou, f.hd, f.strict_iou, f.strict_hd, f.strict_hd95)
        table.add_row(regime.replace("_", " "), *(f"{value:.3f}" for value in shown), str(f.n_images))
    console.print(table)
