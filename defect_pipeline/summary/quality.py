"""What `defect-pipeline quality` ends with: the tables behind its assets, and their pictures."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.order import ORDERS, read_order
from defect_pipeline.assets.quality import Agreement, read_ladder, read_reconstruction, read_variety
from defect_pipeline.assets.shapes import read_strategies
from defect_pipeline.assets.stage import PICTURES, Pipeline, open_dataset
from defect_pipeline.evaluation.shapes import MEASURES
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import save_jpeg
from defect_pipeline.store import Store


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
            k, f"{twins.median_area:.1%}", str(twins.n), f"{twins.ratio:.1f}", f"{twins.wanted(pipeline.settings.thresholds.of(k).in_mask):g}", f"{twins.ratio_near:.1f}",
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
