"""What is checked and shown of images with masks, whichever system painted them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from defect_pipeline.assets import checks, worst
from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.checks import Check
from defect_pipeline.assets.coco import read_instances
from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.fid import Report, whole_set
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.stage import INSPECTION, open_dataset
from defect_pipeline.evaluation.distances import Comparison
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import overlay
from defect_pipeline.store import Artifact, Store
from defect_pipeline.summary import figures
from defect_pipeline.summary.figures import FiguresOf, fid_floor, interval
from defect_pipeline.system import Closing, Sheet, Tile

IMAGES_CHECK = checks.no_group_on_two_sides(inspection_images)  # of every system


def checks_of(masked: Masked) -> tuple[Check, ...]:
    """From the images to the joined set, in the order of the stages."""
    images, valid = masked.images, "pycocotools loads {}; areas, boxes and masks agree."
    return (
        IMAGES_CHECK,
        checks.driver_contract(masked.drivers),
        checks.coco_valid("coco_valid_for_class", images, valid.format("the class's set")),
        checks.defects_in_their_masks(masked.faithfulness, worst.least_in_mask(images)),
        checks.no_copies(
            "no_copies", masked.copies, "Hardly any synthetic defect is a copy of a training defect.",
            worst.nearest_to_training(images),
        ),
        checks.enough_accepted(masked.accepted, worst.rejected(images)),
        checks.gate(
            "fid_gate", masked.fid, "KID and FID to held-out real images stay below the thresholds.", _held_out,
            worst.farthest_of_accepted(images, masked.accepted),
        ),
        checks.classes_told_apart(masked.classes),
        checks.coco_valid("coco_valid", masked.joined, valid.format("the joined set")),
    )  # fmt: skip


def closing_of(masked: Masked) -> Closing:
    """A row of figures for each class, one FID, and the segmentor's table."""

    def row(store: Store, k: str) -> list[str]:
        verdicts = read_verdicts(store.current(masked.accepted.name, k).path)
        twins = store.current(masked.faithfulness.name, k).load(TwinFigures)
        copying = store.current(masked.copies.name, k).load(Copying)
        found = held_out_of(masked)(store, k)
        return [
            f"{(verdicts['reason'] == '').sum()} of {len(verdicts)}", f"{twins.ratio:.0f}x", f"{copying.copies:.0%}",
            interval(found), f"{found.floor_kid:.3f}", f"{found.fid:.1f}", fid_floor(found),
        ]  # fmt: skip

    def headline(store: Store, classes: Sequence[str]) -> str:
        fid, synthetic, real = whole_set([store.current(masked.fid.name, k).path for k in classes])
        return f"All classes together: FID {fid:.1f} ({synthetic} accepted images, {real} held-out crops)"

    columns = ("accepted", "in mask", "copies", "KID (95 % CI)", "KID floor", "FID", "FID floor (n)")
    return Closing(columns, row, headline, figures.segmentor(masked.segmentation), masked.joined)


def figures_of(masked: Masked) -> tuple[FiguresOf, ...]:
    """The tables of the report."""
    return (
        figures.segmentor(masked.segmentation), figures.near_to_real(masked.fid),
        figures.in_their_masks(masked.faithfulness), figures.copies(masked.copies),
        figures.accepted_images(masked.accepted), figures.told_apart(masked.classes),
    )  # fmt: skip


@dataclass(frozen=True)
class Sheets:
    """The pictures of the report."""

    overview: tuple[Sheet, ...]
    of_classes: tuple[Sheet, ...]
    tests: Sheet
    segmentor_loss: Sheet

    @classmethod
    def of(cls, masked: Masked) -> "Sheets":
        """Of images with masks."""
        return cls(
            (Sheet(masked.joined, "contact sheet", "All classes", "Real images of each class, synthetic ones, and these with their masks."),),
            (
                Sheet(masked.faithfulness, "best", "Where the defect stands out most", "From above: the mask asked for, the image, its twin painted from the same noise without the mask, and what changed, doubled."),
                Sheet(masked.faithfulness, "worst", "Where it stands out least", "The same rows, of the images that change least under their masks."),
                Sheet(masked.copies, "nearest training defects", "Nearest to training defects", "Each synthetic defect above the training defect it is nearest to, with their distance in features."),
                Sheet(masked.accepted, "rejected", "Left out by the filter", "Each with the reason."),
                Sheet(masked.images, "contact sheet with masks", "What was painted", "The first images of the class, before the filter."),
            ),
            Sheet(masked.segmentation, "test images", "What the segmentor sees", "Test images as annotated, and as each training regime finds them."),
            Sheet(masked.segmentor, "loss", "Loss of the segmentor"),
        )  # fmt: skip


def shelves_of(masked: Masked) -> Callable[[Store, str, int], dict[str, list[Tile]]]:
    """The first accepted images of a class, and the same with their masks."""

    def shelves(store: Store, k: str, most: int) -> dict[str, list[Tile]]:
        classes = open_dataset(store.current(INSPECTION)).categories
        painted = store.current(masked.images.name, k).path
        instances = read_instances(store.current(masked.accepted.name, k).path, classes)
        plain, labelled = [], []
        for name in list(instances)[:most]:
            image = read_image(painted / name)
            masks = [(classes[number], mask) for number, mask in instances[name]]
            plain.append(Tile(image, name))
            labelled.append(Tile(overlay(image, masks, class_colours(classes)), name))
        return {"Synthetic": plain, "The same with their masks": labelled}

    return shelves


def held_out_of(masked: Masked) -> Callable[[Store, str], Comparison]:
    """The accepted images of a class against held-out ones."""
    return lambda store, k: _held_out(store.current(masked.fid.name, k))


def count_of(masked: Masked) -> Callable[[Store, str], int]:
    """The accepted images of a class."""
    return lambda store, k: int((read_verdicts(store.current(masked.accepted.name, k).path)["reason"] == "").sum())


def _held_out(report: Artifact) -> Comparison:
    return report.load(Report).held_out
