"""How near a class's generated images are to real ones, and whether they are anything but copies of their sources."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from defect_pipeline.assets.copying import report_copies
from defect_pipeline.assets.references import HELD_OUT, extractor_of, remembering
from defect_pipeline.assets.stablesdg.adapt import OWN_TRAIN, class_windows
from defect_pipeline.assets.stablesdg.generate import read_generated, read_rows
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.evaluation.distances import Comparison, compare
from defect_pipeline.imaging.subsets import Subset

REPORT = "report.json"


def _seen_by(pipeline: Pipeline) -> tuple:
    """What whole images and their features depend on."""
    settings = pipeline.settings
    return settings.drivers.size, settings.extractor, settings.extractor_weights


@dataclass(frozen=True)
class GeneratedReport:
    """Generated images against held-out ones, which count, and against those of the train side; and what handing the
    train images back unchanged would have scored against the held-out ones."""

    held_out: Comparison
    train: Comparison
    copies: Comparison

    @classmethod
    def read(cls, directory: Path) -> "GeneratedReport":
        found = json.loads((directory / REPORT).read_text())
        return cls(**{name: Comparison(**part) for name, part in found.items()})


@stage(
    parents=("inspection_images", "stablesdg_images"),
    settings=_seen_by,
    images=Subset(shows="own class", classes="shown"),
    group="stablesdg",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)
def stablesdg_fid_report(build: Build) -> None:
    """KID and FID to held-out and to train images; beside them those of the train images, given back unchanged."""
    extractor = extractor_of(build)
    generated = extractor.features(read_generated(build.parent("stablesdg_images").path))
    held_out, train = (
        remembering(build, extractor).features([crop.image for crop in class_windows(build, splits)])
        for splits in (HELD_OUT, ("train",))
    )

    def to(real: np.ndarray, images: np.ndarray) -> Comparison:
        return compare(real, images, extractor=extractor.name, seed=build.pipeline.seed)

    report = GeneratedReport(to(held_out, generated), to(train, generated), to(held_out, train))
    (build.path / REPORT).write_text(json.dumps(asdict(report)))
    build.metadata |= {
        "KID": report.held_out.kid, "FID": report.held_out.fid, "KID of copies": report.copies.kid,
        "report": [{"compared": name, **asdict(part)} for name, part in vars(report).items()],
    }  # fmt: skip


@stage(
    parents=("inspection_images", "stablesdg_images"),
    settings=_seen_by,
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)
def stablesdg_copy_report(build: Build) -> None:
    """How near each generated image is to its nearest train image; nearer than other parts' are to each other is a copy."""
    crops, generated = class_windows(build, ("train",)), build.parent("stablesdg_images").path
    names = [Path(row["file"]).name for row in read_rows(generated)]
    report_copies(build, names, read_generated(generated), crops, [crop.image for crop in crops])
