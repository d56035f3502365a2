"""What `defect-pipeline quality` ends with: the tables behind its assets."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from defect_pipeline import evaluation
from defect_pipeline.assets.order import ORDERS, Judged
from defect_pipeline.assets.quality import Agreement
from defect_pipeline.assets.stage import INSPECTION, Stage, open_dataset
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.evaluation.reconstruction import Reconstruction
from defect_pipeline.profiles import Profile
from defect_pipeline.store import Store

Printer = Callable[[Console, Store, Profile], None]


def quality_of(
    *, ladder: Stage, agreement: Stage, variety: Stage, shapes: Stage, autoencoder: Stage, order: Stage, faithfulness: Stage
) -> Printer:  # fmt: skip
    """What prints the tables of these stages, which must have been made."""

    def print_quality(console: Console, store: Store, settings: Profile) -> None:
        classes = open_dataset(store.current(INSPECTION)).categories
        _print_autoencoder(console, store.current(autoencoder.name).load(Reconstruction))
        console.print(_ladder({k: store.current(ladder.name, k).load(dict[str, Comparison]) for k in classes}))
        twins = {k: store.current(faithfulness.name, k).load(TwinFigures) for k in classes}
        found = {k: store.current(agreement.name, k).load(Agreement) for k in classes}
        console.print(_in_masks(twins, found, {k: settings.thresholds.of(k).in_mask for k in classes}))
        console.print(_variety({k: store.current(variety.name, k).load(list[dict]) for k in classes}))
        console.print(_shapes({k: store.current(shapes.name, k).load(list[dict]) for k in classes}))
        console.print(_order(store.current(order.name).load(list[Judged]), classes))

    return print_quality


def _print_autoencoder(console: Console, kept: Reconstruction) -> None:
    console.print(
        f"Autoencoder on {kept.n} held-out crops at their own resolution: PSNR {kept.psnr:.1f} dB, under defect masks "
        f"{kept.psnr_defects:.1f} dB, gradient energy kept {kept.gradient_energy:.0%}"
    )


def _ladder(ladders: dict[str, dict[str, Comparison]]) -> Table:
    table = Table("KID to held-out images", *ladders)
    rungs = list(next(iter(ladders.values())))
    for rung in rungs:
        table.add_row(rung, *(f"{own[rung].kid:.3f}" for own in ladders.values()))
    last = [own[rungs[-1]] for own in ladders.values()]
    table.add_row("floor, real to real", *(f"{one.floor_kid:.3f}" for one in last))
    table.add_row("n synthetic / real", *(f"{one.n_synthetic} / {one.n_real}" for one in last))
    return table


def _in_masks(twins: dict[str, TwinFigures], found: dict[str, Agreement], asked: dict[str, float]) -> Table:
    table = Table(
        "class", "mask area", "twins (n)", "ratio", "wanted", "near the mask", "ratio from noise", "IoU asked", "IoU real (n)",
    )  # fmt: skip
    for k, own in twins.items():
        table.add_row(
            k, f"{own.median_area:.1%}", str(own.n), f"{own.ratio:.1f}", f"{own.wanted(asked[k]):g}",
            f"{own.ratio_near:.1f}", f"{found[k].from_noise.ratio:.1f}", f"{found[k].iou_synthetic:.3f}",
            f"{found[k].iou_real:.3f} ({found[k].n_real})",
        )  # fmt: skip
    return table


def _variety(found: dict[str, list[dict]]) -> Table:
    table = Table("class", "images", "L2", "L2 under masks", "mutual information", "KID", "FID", "n")
    for k, rows in found.items():
        for row in rows:
            names = ("l2", "l2_under_masks", "mutual_information", "kid", "fid")
            table.add_row(k, row["images"], *(f"{row[name]:.3g}" for name in names), str(row["n"]))
    return table


def _shapes(found: dict[str, list[dict]]) -> Table:
    table = Table("class", "masks", *evaluation.shapes.MEASURES, "novelty", "n", title="distance to held-out masks")
    for k, rows in found.items():
        for row in rows:
            measured = [f"{row[name]:.2f}" for name in (*evaluation.shapes.MEASURES, "novelty")]
            table.add_row(k, row["strategy"], *measured, f"{row['n']} / {row['real']}")
    return table


def _order(judged: Sequence[Judged], classes: Sequence[str]) -> Table:
    table = Table("all from noise", *(f"KID {k}" for k in classes), "mean KID", "mean FID")
    for order in ORDERS:
        own = [one for one in judged if one.order == order]
        kid, fid = (sum(getattr(one, f) for one in own) / len(own) for f in ("kid", "fid"))
        table.add_row(order, *(f"{one.kid:.3f}" for one in own), f"{kid:.3f}", f"{fid:.1f}")
    return table
