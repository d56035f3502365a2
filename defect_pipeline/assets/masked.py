"""What follows on images with masks, whoever painted them: copies, filter, distances, one COCO set, a segmentor."""

from dataclasses import dataclass

from defect_pipeline.assets.accepted import sadf_accepted
from defect_pipeline.assets.classes import class_report
from defect_pipeline.assets.coco import sadf_coco
from defect_pipeline.assets.copying import copy_report
from defect_pipeline.assets.fid import fid_report
from defect_pipeline.assets.segmentation import segmentation_report, segmentor
from defect_pipeline.assets.stage import Stage


@dataclass(frozen=True)
class Masked:
    """The stages of a system that paint images with masks, and what follows on them."""

    pool: Stage  # what is painted on
    bank: Stage  # masks
    drivers: Stage
    images: Stage
    faithfulness: Stage
    copies: Stage
    accepted: Stage
    fid: Stage
    classes: Stage
    joined: Stage  # the COCO set of all classes
    segmentor: Stage
    segmentation: Stage

    @classmethod
    def following(
        cls, pool: Stage, bank: Stage, drivers: Stage, images: Stage, faithfulness: Stage,
        *, prefix: str = "", sets: str = "sadf", group: str = "",
    ) -> "Masked":  # fmt: skip
        """What follows on ``images`` and their report of twins.

        ``prefix`` begins the names of reports and segmentor, ``sets`` those of the accepted and of the joined images;
        ``group`` takes the place of the groups that the stages have by themselves.
        """
        copies = copy_report(images, bank, name=f"{prefix}copy_report", group=group or "evaluation")
        accepted = sadf_accepted(
            pool, bank, images, faithfulness, copies, name=f"{sets}_accepted", group=group or "synthesis"
        )
        fid = fid_report(images, accepted, name=f"{prefix}fid_report", group=group or "synthesis")
        classes = class_report(images, bank, name=f"{prefix}class_report", group=group or "evaluation")
        joined = sadf_coco(images, accepted, fid, name=f"{sets}_coco", group=group or "synthesis")
        trained = segmentor(joined, name=f"{prefix}segmentor", group=group or "recognition")
        measured = segmentation_report(trained, name=f"{prefix}segmentation_report", group=group or "recognition")
        return cls(pool, bank, drivers, images, faithfulness, copies, accepted, fid, classes, joined, trained, measured)

    @property
    def judged(self) -> tuple[Stage, ...]:
        """What follows on the report of twins, in order."""
        return (self.copies, self.accepted, self.fid, self.classes, self.joined, self.segmentor, self.segmentation)
