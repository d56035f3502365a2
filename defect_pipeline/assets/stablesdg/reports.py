"""How near a class's generated images are to real ones, and whether they are anything but copies of their sources."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from defect_pipeline.assets.copying import report_copies
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.references import HELD_OUT, extractor_of, remembering
from defect_pipeline.assets.stablesdg.adapt import OWN_TRAIN, train_windows
from defect_pipeline.assets.stablesdg.generate import Generated, read_generated, stablesdg_images
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.evaluation.distances import Comparison, compare
from defect_pipeline.imaging.crops import class_windows
from defect_pipeline.imaging.subsets import Subset

SEEN = ("drivers.size", "extractor", "extractor_weights")  # settings of whole images and their features


@dataclass(frozen=True)
class GeneratedReport:
    """Generated images against held-out ones, which count, and against those of the train side; and what handing the
    train images back unchanged would have scored against the held-out ones."""

    held_out: Comparison
    train: Comparison
    copies: Comparison


@stage(
    parents=(inspection_images, stablesdg_images),
    settings=SEEN,
    images=Subset(shows="own class", classes="shown"),
    group="stablesdg",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)
def stablesdg_fid_report(build: Build) -> None:
    """KID and FID to held-out and to train images; beside them those of the train images, given back unchanged."""
    extractor, size = extractor_of(build.settings), build.settings.drivers.size
    generated = extractor.features(read_generated(build.read(stablesdg_images)))
    held_out, train = (
        remembering(extractor, build.cache("features")).features(
            [crop.image for crop in class_windows(build.dataset, build.defect_class, splits, size)]
        )
        for splits in (HELD_OUT, ("train",))
    )

    def to(real: np.ndarray, images: np.ndarray) -> Comparison:
        return compare(real, images, extractor=extractor.name, seed=build.seed)

    report = GeneratedReport(to(held_out, generated), to(train, generated), to(held_out, train))
    build.keep(report)
    build.metadata |= {
        "KID": report.held_out.kid, "FID": report.held_out.fid, "KID of copies": report.copies.kid,
        "report": [{"compared": name, **asdict(part)} for name, part in vars(report).items()],
    }  # fmt: skip


@stage(
    parents=(inspection_images, stablesdg_images),
    settings=SEEN,
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)
def stablesdg_copy_report(build: Build) -> None:
    """How near each generated image is to its nearest train image; nearer than other parts' are to each other is a copy."""
    crops, generated = train_windows(build), build.read(stablesdg_images)
    names = [Path(image.file).name for image in generated.load(Generated).images]
    report_copies(build, names, read_generated(generated), crops, [crop.image for crop in crops])
