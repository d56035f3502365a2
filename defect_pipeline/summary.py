"""What a run ends with: tables of figures, the verdicts, and where to look."""

import math
import shutil
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.experiments.downstream import TABLES as SEGMENTOR_TABLES
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.fid import Report, whole_set
from defect_pipeline.assets.order import ORDERS, read_order
from defect_pipeline.assets.quality import Agreement, read_ladder, read_reconstruction, read_variety
from defect_pipeline.assets.segmentation import read_figures
from defect_pipeline.assets.shapes import read_strategies
from defect_pipeline.assets.stage import PICTURES, Pipeline, open_dataset
from defect_pipeline.automation.checks import CHECKS, evaluate
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.shapes import MEASURES
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_jpeg
from defect_pipeline.store import Store


def print_summary(console: Console, store: Store, pipeline: Pipeline) -> bool:
    """Print what the store has, as far as a run came; True when all of it is there and every check passed."""
    try:
        dataset = open_dataset(store.current("inspection_images"))
    except PipelineError:
        return False
    passed = True
    table = Table(
        "class",
        "real train/held-out",
        "accepted",
        "in mask",
        "copies",
        "KID (95 % CI)",
        "KID floor",
        "FID",
        "FID floor (n)",
        "checks",
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
        fid, synthetic, real = whole_set([store.current("fid_report", k).path for k in dataset.categories])
        console.print(f"All classes together: FID {fid:.1f} ({synthetic} accepted images, {real} held-out crops)")
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
        verdicts = read_verdicts(store.current("sadf_accepted", defect_class).path)
        _, twins = read_twins(store.current("faithfulness_report", defect_class).path)
        _, copying = read_copies(store.current("copy_report", defect_class).path)
        report = Report.read(store.current("fid_report", defect_class).path).held_out
    except PipelineError:
        return ["-"] * 7
    floor = "-" if math.isnan(report.floor_fid) else f"{report.floor_fid:.1f} ({report.n_floor})"
    return [
        f"{(verdicts['reason'] == '').sum()} of {len(verdicts)}", f"{twins.ratio:.0f}x", f"{copying.copies:.0%}",
        f"{report.kid:.3f} ({report.kid_low:.3f} … {report.kid_high:.3f})", f"{report.floor_kid:.3f}",
        f"{report.fid:.1f}", floor,
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


def print_quality(console: Console, store: Store, pipeline: Pipeline) -> None:
    """Print the tables behind `defect-pipeline quality`, whose assets must be there."""
    classes = open_dataset(store.current("inspection_images")).categories
    kept = read_reconstruction(store.current("autoencoder_report").path)
    console.print(
        f"Autoencoder on {kept.n} held-out crops at their own resolution: PSNR {kept.psnr:.1f} dB, under defect masks "
        f"{kept.psnr_defects:.1f} dB, gradient energy kept {kept.gradient_energy:.0%}"
    )
    ladders = {k: read_ladder(store.current("kid_ladder", k).path) for k in classes}
    table = Table("KID to held-out images", *classes)
    for rung in ladders[classes[0]]:
        table.add_row(rung, *(f"{ladders[k][rung].kid:.3f}" for k in classes))
    table.add_row("floor, real to real", *(f"{ladders[k][rung].floor_kid:.3f}" for k in classes))
    table.add_row(
        "n synthetic / real", *(f"{ladders[k][rung].n_synthetic} / {ladders[k][rung].n_real}" for k in classes)
    )
    console.print(table)
    table = Table(
        "class",
        "mask area",
        "twins (n)",
        "ratio",
        "wanted",
        "near the mask",
        "ratio from noise",
        "IoU asked",
        "IoU real (n)",
    )
    for k in classes:
        _, twins = read_twins(store.current("faithfulness_report", k).path)
        found = Agreement.read(store.current("agreement_report", k).path)
        table.add_row(
            k, f"{twins.median_area:.1%}", str(twins.n), f"{twins.ratio:.1f}", f"{twins.wanted(pipeline.settings.thresholds.in_mask):g}", f"{twins.ratio_near:.1f}",
            f"{found.from_noise.ratio:.1f}", f"{found.iou_synthetic:.3f}", f"{found.iou_real:.3f} ({found.n_real})",
        )  # fmt: skip
    console.print(table)
    table = Table("class", "images", "L2", "L2 under masks", "mutual information", "KID", "FID", "n")
    for k in classes:
        for row in read_variety(store.current("variety_report", k).path):
            shown = ("l2", "l2_under_masks", "mutual_information", "kid", "fid")
            table.add_row(k, row["images"], *(f"{row[name]:.3g}" for name in shown), str(row["n"]))
    console.print(table)
    table = Table("class", "masks", *MEASURES, "novelty", "n", title="distance to held-out masks")
    for k in classes:
        for row in read_strategies(store.current("shape_report", k).path):
            measured = [f"{row[name]:.2f}" for name in (*MEASURES, "novelty")]
            table.add_row(k, row["strategy"], *measured, f"{row['n']} / {row['real']}")
    console.print(table)
    judged = read_order(store.current("order_report").path)
    table = Table("all from noise", *(f"KID {k}" for k in classes), "mean KID", "mean FID")
    for order in ORDERS:
        own = [part for part in judged if part.order == order]
        kid, fid = (sum(getattr(part, f) for part in own) / len(own) for f in ("kid", "fid"))
        table.add_row(order, *(f"{part.kid:.3f}" for part in own), f"{kid:.3f}", f"{fid:.1f}")
    console.print(table)


SHOWN = (  # asset, picture, whether there is one for each class
    ("autoencoder_report", "crops", False),
    ("hypernetwork_weights", "fixed drivers over steps", False),
    ("sadf_images", "contact sheet", True),
    ("sadf_images", "contact sheet with masks", True),
    ("kid_ladder", "ladder", True),
    ("kid_ladder", "from noise", True),
    ("faithfulness_report", "best", True),
    ("faithfulness_report", "worst", True),
    ("copy_report", "nearest training defects", True),
    ("agreement_report", "twins", True),
    ("variety_report", "one driver, ten seeds", True),
    ("shape_report", "shapes", True),
    ("order_report", "images", False),
)


def export_pictures(store: Store, folder: Path) -> None:
    """Write what the tables of `print_quality` are about to a folder, as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = open_dataset(store.current("inspection_images")).categories
    for asset, picture, of_class in SHOWN:
        for k in classes if of_class else (None,):
            image = read_image(store.current(asset, k).path / PICTURES / f"{picture}.png")
            name = " ".join(filter(None, (asset.removesuffix("_report"), picture, k)))
            save_jpeg(folder / f"{name.replace(' ', '_')}.jpg", image)


# --- Experiments ---------------------------------------------------------------------------------------------------

TABLE_FILES = {  # of each experiment: the asset that made them, and their names
    "segmentor": ("downstream_report", tuple(SEGMENTOR_TABLES.values())),
    "variety": ("variety_summary", ("table_3",)),
    "ablation": ("ablation_report", ("table_4",)),
}


def print_tables(console: Console, store: Store, experiment: str) -> None:
    """Print the tables of one experiment: "segmentor" (1 and 2), "variety" (3) or "ablation" (4)."""
    printers = {"segmentor": _segmentor_table, "variety": _variety_table, "ablation": _ablation_table}
    asset, names = TABLE_FILES[experiment]
    for name in names:
        rows = pd.read_csv(store.current(asset).path / f"{name}.csv").to_dict("records")
        console.print(printers[experiment](name, rows))


def export_table(store: Store, experiment: str, folder: Path) -> None:
    """Write the tables of one experiment as CSV and their pictures as PNG to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    asset, names = TABLE_FILES[experiment]
    directory = store.current(asset).path
    for name in names:
        shutil.copyfile(directory / f"{name}.csv", folder / f"{name}.csv")
        shutil.copyfile(directory / PICTURES / f"{name}.png", folder / f"{name}.png")


def _segmentor_table(name: str, rows: list[dict]) -> Table:
    share = next(share for share, table in SEGMENTOR_TABLES.items() if table == name)
    title = f"{name}: {share} of the groups, {rows[0]['seeds']} seeds, {rows[0]['test images']:.0f} test images"
    table = Table("arm", "segm mAP", "AP50", "bbox mAP", "gain over real (95 % CI)", "real images seen", title=title)
    for row in rows:
        figures = [f"{row[f]:.3f} ± {row[f'{f} std']:.3f}" for f in ("segm_map", "segm_ap50", "bbox_map")]
        table.add_row(
            row["arm"], *figures, _with_interval(row, "gain", "+.3f"),
            f"{row['real images']:.0f} x {row['each real image seen']:.1f}",
        )  # fmt: skip
    return table


def _variety_table(name: str, rows: list[dict]) -> Table:
    table = Table("images", "L2", "L2 under masks", "mutual information", "KID", "FID", "n", title=name)
    for row in rows:
        figures = [_with_interval(row, f, ".3g") for f in ("l2", "l2_under_masks", "mutual_information", "kid", "fid")]
        table.add_row(row["images"], *figures, str(row["n"]))
    return table


def _ablation_table(name: str, rows: list[dict]) -> Table:
    table = Table("groups", "order", "KID", "change", "FID", "change", "n", title=f"{name}, {rows[0]['seeds']} seeds")
    for row in rows:
        figures = [
            _with_interval(row, f, form)
            for f, form in (("kid", ".3f"), ("kid change", "+.3f"), ("fid", ".1f"), ("fid change", "+.1f"))
        ]
        table.add_row(f"{row['share']} ({row['groups']:.0f})", row["order"], *figures, str(row["n"]))
    return table


def _with_interval(row: dict, figure: str, form: str) -> str:
    return f"{row[figure]:{form}} ({row[f'{figure} low']:{form}} … {row[f'{figure} high']:{form}})"
