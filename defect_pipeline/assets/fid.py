"""How far a class's synthetic images are from real ones: KID, FID beside it, the real-vs-real floor under both."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.evaluation.distances import Comparison, Moments, compare, frechet_distance
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.profiles import Thresholds


@dataclass(frozen=True)
class Report:
    """The accepted synthetic images of a class against real crops of held-out images, and against those of train images.

    Held-out (val and test) is what counts; a generator that copies is near to train alone. Beside them all synthetic
    images, as they were before the filter, against the held-out ones.
    """

    held_out: Comparison
    train: Comparison
    unfiltered: Comparison

    @classmethod
    def read(cls, directory: Path) -> "Report":
        return cls(
            **{name: Comparison(**part) for name, part in json.loads((directory / "report.json").read_text()).items()}
        )


@stage(
    version="2",
    parents=("inspection_images", "sadf_images", "sadf_accepted"),
    settings=lambda pipeline: (
        pipeline.settings.extractor, pipeline.settings.extractor_weights, pipeline.settings.drivers.size, pipeline.settings.drivers.zoom,
    ),
    images=Subset(shows="own class", classes="shown"),
    group="synthesis",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def fid_report(build: Build) -> None:
    """KID with its confidence interval and FID to held-out and to train images, beside the real-vs-real floor."""
    extractor = extractor_of(build)
    verdicts = read_verdicts(build.parent("sadf_accepted").path)
    painted = build.parent("sadf_images").path / IMAGES
    features = extractor.features([read_image(painted / name) for name in verdicts["image"]])
    accepted = features[verdicts["reason"] == ""]

    held_out, train = (real_features(build, extractor, build.defect_class, splits) for splits in (HELD_OUT, ("train",)))

    def to(real: np.ndarray, synthetic: np.ndarray) -> Comparison:
        return compare(real, synthetic, extractor=extractor.name, seed=build.pipeline.seed)

    report = Report(held_out=to(held_out, accepted), train=to(train, accepted), unfiltered=to(held_out, features))
    (build.path / "report.json").write_text(json.dumps(asdict(report)))
    for name, part in (("held_out", held_out), ("accepted", accepted)):
        Moments.of(part).save(build.path / f"{name}.npz")
    build.metadata |= {
        "KID": report.held_out.kid, "FID": report.held_out.fid, "KID floor": report.held_out.floor_kid,
        "report": [{"compared": name, **asdict(part)} for name, part in vars(report).items()],
    }  # fmt: skip


def whole_set(directories: Sequence[Path]) -> tuple[float, int, int]:
    """FID of all classes together, from the moments of their `fid_report` artifacts, and the numbers of synthetic and
    real images behind it: the paper's one figure."""
    sides = [
        reduce(Moments.merged, (Moments.load(directory / f"{name}.npz") for directory in directories))
        for name in ("accepted", "held_out")
    ]
    return frechet_distance(*sides), sides[0].n, sides[1].n


def gate_problems(found: Comparison, thresholds: Thresholds) -> list[str]:
    """What a class's gate holds against it, a phrase each: KID or FID to held-out images above its thresholds."""
    figures = (("KID", found.kid, thresholds.kid), ("FID", found.fid, thresholds.fid))
    return [f"{name} {value:.3g} is above {limit:.3g}" for name, value, limit in figures if not value <= limit]
