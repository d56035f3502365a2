"""The figures of a run as tables of text, for the console and for the report alike.

Each function gives, for the stages that it is given, a function that gathers their figures from a store.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from defect_pipeline.assets.accepted import REASONS, read_verdicts
from defect_pipeline.assets.classes import ClassConfusion
from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.fid import Report, whole_set
from defect_pipeline.assets.stablesdg.generate import Generated
from defect_pipeline.assets.stablesdg.recognise import ARMS, Recognised
from defect_pipeline.assets.stablesdg.reports import GeneratedReport
from defect_pipeline.assets.stage import Stage
from defect_pipeline.errors import MissingArtifactError
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.evaluation.segmentation import SegmentationFigures
from defect_pipeline.profiles import Profile
from defect_pipeline.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """A table: its rows have a text for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # what the columns mean, and which way is better


FiguresOf = Callable[[Store, Profile, Sequence[str]], Figures]  # raises MissingArtifactError where there is nothing


def interval(found: Comparison) -> str:
    """KID with its 95 % confidence interval."""
    return f"{found.kid:.3f} ({found.kid_low:.3f} … {found.kid_high:.3f})"


def fid_floor(found: Comparison) -> str:
    """FID of real to real images, and of how many."""
    return "-" if math.isnan(found.floor_fid) else f"{found.floor_fid:.1f} ({found.n_floor})"


# --- Images with masks ---------------------------------------------------------------------------------------------


def near_to_real(fid: Stage) -> FiguresOf:
    """Accepted images against held-out ones."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        found = of_each(classes, lambda k: store.current(fid.name, k).load(Report))
        rows = [
            (*_near(k, report.held_out, settings), f"{report.unfiltered.kid:.3f}", f"{report.train.kid:.3f}")
            for k, report in found.items()
        ]
        distance, synthetic, real = whole_set([store.current(fid.name, k).path for k in found])
        together = f"Together: FID {distance:.1f} ({synthetic} accepted images, {real} held-out crops)."
        columns = (*NEAR_COLUMNS, "KID before the filter", "KID to train images")
        return Figures("How near to real images", columns, tuple(rows), f"{_near_note(found.values())} {together}")

    return gather


def in_their_masks(faithfulness: Stage) -> FiguresOf:
    """Images against their twins."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        rows = []
        for k, found in of_each(classes, lambda k: store.current(faithfulness.name, k).load(TwinFigures)).items():
            wanted = found.wanted(settings.thresholds.of(k).in_mask)
            rows.append(
                (k, f"{found.ratio:.1f}x", f"{wanted:g}x", f"{found.ratio_near:.1f}x", f"{found.inside:.0f}", f"{found.median_area:.1%}", str(found.n))
            )  # fmt: skip
        columns = ("class", "change under the mask", "wanted", "against 8 px around", "grey levels", "mask area", "n")
        note = "Each image against its twin, painted from the same noise without the mask: how much more changes under the mask than elsewhere."
        return Figures("Defects in their masks", columns, tuple(rows), note)

    return gather


def accepted_images(accepted: Stage) -> FiguresOf:
    """What the filter let through, and why it did not."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        rows = []
        for k, verdicts in of_each(classes, lambda k: read_verdicts(store.current(accepted.name, k).path)).items():
            reasons = verdicts["reason"]
            left_out = [str((reasons == reason).sum()) for reason in REASONS]
            rows.append((k, f"{(reasons == '').sum()} of {len(reasons)}", *left_out))
        note = "; ".join(f"{reason}: {meaning}" for reason, meaning in REASONS.items())
        return Figures("Accepted by the filter", ("class", "accepted", *REASONS), tuple(rows), f"Rejected as {note}.")

    return gather


def told_apart(report: Stage) -> FiguresOf:
    """What a probe takes synthetic and held-out defects for."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        found = store.current(report.name).load(ClassConfusion)
        rows = [
            (f"{k}, {side}", *map(str, row))
            for side, counts in (("synthetic", found.synthetic), ("real", found.held_out))
            for k, row in zip(found.classes, counts, strict=True)
        ]
        columns = ("defects of", *(f"taken for {k}" for k in found.classes))
        note = "A probe that was trained on real train defects; where it cannot tell the real ones, it says little of the synthetic."
        return Figures("Which class they look like", columns, tuple(rows), note)

    return gather


def segmentor(report: Stage) -> FiguresOf:
    """The three regimes on the test split."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        rows = []
        for regime, f in store.current(report.name).load(dict[str, SegmentationFigures]).items():
            values = (f.segm_map, f.segm_ap50, f.bbox_map, f.iou, f.hd, f.strict_iou, f.strict_hd, f.strict_hd95)
            rows.append((regime.replace("_", " "), *(f"{value:.3f}" for value in values), str(f.n_images)))
        columns = (
            "regime", "segm mAP", "AP50", "bbox mAP", "IoU", "HD", "strict IoU", "strict HD", "strict HD95", "n images",
        )  # fmt: skip
        note = (
            "Trained on real, on synthetic, and on synthetic then real images, in as many steps, and measured on the test "
            "split. mAP and IoU: larger is better; HD, the Hausdorff distance: smaller. IoU and HD are of matched "
            "instances, strict ones of all defects of every image."
        )
        return Figures("Segmentor on the test split", columns, tuple(rows), note)

    return gather


# --- Images without masks ------------------------------------------------------------------------------------------


def generated_near_to_real(fid: Stage) -> FiguresOf:
    """Generated images against held-out ones, beside the train images given back unchanged."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        found = of_each(classes, lambda k: store.current(fid.name, k).load(GeneratedReport))
        rows = [
            (*_near(k, report.held_out, settings), f"{report.copies.kid:.3f}", f"{report.train.kid:.3f}")
            for k, report in found.items()
        ]
        columns = (*NEAR_COLUMNS, "KID of train images", "KID to train images")
        return Figures("How near to real images", columns, tuple(rows), _near_note(found.values()))

    return gather


def painted_from(images: Stage) -> FiguresOf:
    """Strength and guidance, and the numbers of sources and images."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        made = of_each(classes, lambda k: store.current(images.name, k).load(Generated))
        rows = [
            (k, f"{one.strength:g}", f"{one.guidance:g}", f"{one.sources:g}", str(len(one.images)))
            for k, one in made.items()
        ]
        note = "Train images, noised so far (1 is pure noise) and painted anew."
        columns = ("class", "strength", "guidance", "sources", "images")
        return Figures("What they are painted from", columns, tuple(rows), note)

    return gather


def recogniser(report: Stage) -> FiguresOf:
    """Accuracy of each classifier, trained with and without the generated images."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        rows = store.current(report.name).load(list[Recognised])
        shown = []
        for model in dict.fromkeys(row.model for row in rows):
            own = [row for row in rows if row.model == model]
            shown.append((model, *(f"{row.accuracy:.1%}" for row in own), str(own[0].n)))
        columns = ("classifier", *(f"trained on {arm}" for arm in ARMS), "test images")
        note = "Share of the test images whose class is recognised, after as many steps of training."
        return Figures("Accuracy of classifiers on the test split", columns, tuple(shown), note)

    return gather


# --- Both ----------------------------------------------------------------------------------------------------------

NEAR_COLUMNS = (
    "class", "KID (95 % CI)", "KID floor", "FID", "FID floor (n)", "KID / FID allowed", "n synthetic / real",
)  # fmt: skip


def copies(report: Stage) -> FiguresOf:
    """Of a copy report of either kind."""

    def gather(store: Store, settings: Profile, classes: Sequence[str]) -> Figures:
        rows = []
        for k, f in of_each(classes, lambda k: store.current(report.name, k).load(Copying)).items():
            allowed = settings.thresholds.of(k).copies
            rows.append(
                (k, f"{f.copies:.0%}", f"{allowed:.0%}", f"{f.median_feature:.3f}", f"{f.median_feature_real:.3f}", f"{f.n} / {f.m}")
            )  # fmt: skip
        columns = ("class", "copies", "allowed", "distance to train", "of real to real", "n synthetic / train")
        note = (
            "Cosine distance of features to the nearest train image, in all turns and mirrors, beside that of real images to "
            "those of another part. A copy is nearer than hardly any real one is, in features and in perceptual hash."
        )
        return Figures("Copies", columns, tuple(rows), note)

    return gather


def of_each(classes: Sequence[str], read: Callable[[str], T]) -> dict[str, T]:
    """What is read of the classes that the run came to. Raises MissingArtifactError where it came to none."""
    found, missing = {}, None
    for k in classes:
        try:
            found[k] = read(k)
        except MissingArtifactError as error:
            missing = error
    if missing and not found:
        raise missing
    return found


def _near(defect_class: str, found: Comparison, settings: Profile) -> tuple[str, ...]:
    allowed = settings.thresholds.of(defect_class)
    return (
        defect_class, interval(found), f"{found.floor_kid:.3f}", f"{found.fid:.1f}", fid_floor(found),
        f"{allowed.kid:g} / {allowed.fid:g}", f"{found.n_synthetic} / {found.n_real}",
    )  # fmt: skip


def _near_note(reports: Iterable[Report | GeneratedReport]) -> str:
    extractors = ", ".join(sorted({report.held_out.extractor for report in reports}))
    return (
        f"KID and FID say how far the images are from real ones of other parts, in the features of {extractors}; smaller is "
        "nearer. KID of two sets of real images is 0 on average; the floor is what it exceeds in 1 of 20. FID falls as images "
        "are added: hold it against its floor at the same number."
    )
