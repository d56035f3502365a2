"""The second system: StableSDG (Tai et al., paper B). Images of a class, each from a noised real one."""

from collections.abc import Sequence

from defect_pipeline.assets import checks, worst
from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.experiments import adaptation, comparison, recognition
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import lora_weights, token_embedding
from defect_pipeline.assets.stablesdg.generate import Generated, read_generated, stablesdg_images
from defect_pipeline.assets.stablesdg.recognise import recognition_report, recognizer
from defect_pipeline.assets.stablesdg.reports import GeneratedReport, stablesdg_copy_report, stablesdg_fid_report
from defect_pipeline.assets.stablesdg.tune import strength_and_guidance
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.store import Artifact, Store
from defect_pipeline.summary import figures, tables
from defect_pipeline.summary.figures import interval
from defect_pipeline.system import Closing, Sheet, System, Table, Tile
from defect_pipeline.systems.masked import IMAGES_CHECK

images, copies, fid = stablesdg_images, stablesdg_copy_report, stablesdg_fid_report


def _row(store: Store, k: str) -> list[str]:
    made = store.current(images.name, k).load(Generated)
    copying, report = store.current(copies.name, k).load(Copying), store.current(fid.name, k).load(GeneratedReport)
    return [
        f"{made.strength:g} / {made.guidance:g}", str(len(made.images)), f"{copying.copies:.0%}",
        interval(report.held_out), f"{report.copies.kid:.3f}", f"{report.held_out.floor_kid:.3f}",
        f"{report.held_out.fid:.1f}",
    ]  # fmt: skip


def _no_headline(store: Store, classes: Sequence[str]) -> str:
    return ""


def _shelves(store: Store, k: str, most: int) -> dict[str, list[Tile]]:
    return {"Synthetic": [Tile(image) for image in read_generated(store.current(images.name, k))[:most]]}


def _held_out(report: Artifact) -> Comparison:
    return report.load(GeneratedReport).held_out


STABLESDG = System(
    name="stablesdg",
    title="StableSDG: images from real ones",
    painted="from noised photographs of the class (StableSDG)",
    stages=(
        inspection_images,
        token_embedding,
        lora_weights,
        strength_and_guidance,
        images,
        copies,
        fid,
        recognizer,
        recognition_report,
    ),  # fmt: skip
    jobs=("register", "adapt", "recognise"),
    checks=(
        IMAGES_CHECK,
        checks.gate(
            "generated_gate",
            fid,
            "KID and FID of generated images to held-out real ones stay below the thresholds.",
            _held_out,
            worst.farthest_of_generated(images, copies),
        ),
        checks.no_copies(
            "generated_no_copies",
            copies,
            "Hardly any generated image is a copy of a train image.",
            worst.nearest_to_training(images),
        ),
    ),  # fmt: skip
    closing=Closing(
        ("s / guidance", "images", "copies", "KID (95 % CI)", "KID of copies", "KID floor", "FID"),
        _row,
        _no_headline,
        figures.recogniser(recognition_report),
        images,
    ),
    figures=(
        figures.recogniser(recognition_report),
        figures.generated_near_to_real(fid),
        figures.copies(copies),
        figures.painted_from(images),
    ),
    of_classes=(
        Sheet(
            images,
            "beside their sources",
            "Beside their sources",
            "Each image after the train image it was painted from.",
        ),
        Sheet(
            copies,
            "nearest training defects",
            "Nearest to train images",
            "Each generated image above the train image it is nearest to, with their distance in features.",
        ),
        Sheet(
            strength_and_guidance,
            "strength and guidance",
            "Strength and guidance",
            "KID and copies of each pair that was tried.",
        ),
        Sheet(images, "contact sheet", "What was painted", "The first images of the class."),
    ),  # fmt: skip
    results=(
        Sheet(recognition_report, "accuracy", "Accuracy", "On the test images."),
        Sheet(recognition_report, "wrong", "Taken for another class", "The true class, and the one that was seen."),
        Sheet(recognizer, "loss", "Loss of the classifiers"),
    ),
    shelves=_shelves,
    held_out=lambda store, k: _held_out(store.current(fid.name, k)),
    count=lambda store, k: len(store.current(images.name, k).load(Generated).images),
    images=images,
    judged=fid,
    tables=(
        Table("II", adaptation.table_ii, tables.adaptation_table, (adaptation.table_ii_cell,)),
        Table("III", adaptation.table_iii, tables.adaptation_table, (adaptation.table_iii_cell,)),
        Table("IV", adaptation.table_iv, tables.adaptation_table, (adaptation.table_iv_cell,)),
        Table("V", comparison.table_v, tables.generators_table, (comparison.table_v_cell,)),
        Table("VI", recognition.table_vi, tables.recognition_table, (recognition.table_vi_cell,)),
        Table(
            "fig9",
            recognition.figure_9,
            tables.recognition_table,
            (recognition.table_vi_cell, recognition.figure_9_cell),
        ),
    ),  # fmt: skip
)
