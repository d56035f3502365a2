"""How far a class's synthetic images are from real ones: KID, FID beside it, the real-vs-real floor under both."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features, remembering
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import IMAGES
from defect_pipeline.evaluation.distances import Comparison, Moments, compare, frechet_distance
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.subsets import Subset


@dataclass(frozen=True)
class Report:
    """The accepted synthetic images of a class against real crops of held-out images, and against those of train images.

    Held-out (val and test) is what counts; a generator that copies is near to train alone. Beside them all synthetic
    images, as they were before the filter, against the held-out ones.
    """

    held_out: Comparison
    train: Comparison
    unfiltered: Comparison


def fid_report(images: Stage, accepted: Stage, *, name: str, group: str) -> Stage:
    """The stage that measures how far a class's images are from real ones."""

    @stage(
        name=name,
        version="2",
        parents=(inspection_images, images, accepted),
        settings=("extractor", "extractor_weights", "drivers.size", "drivers.zoom"),
        images=Subset(shows="own class", classes="shown"),
        group=group,
        kinds={"torch"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """KID with its confidence interval and FID to held-out and to train images, beside the real-vs-real floor."""
        extractor = extractor_of(build.settings)
        verdicts = read_verdicts(build.read(accepted).path)
        painted = build.read(images).path / IMAGES
        features = extractor.features([read_image(painted / name) for name in verdicts["image"]])
        kept = features[verdicts["reason"] == ""]

        held_out, train = (
            real_features(
                remembering(extractor, build.cache("features")), build.dataset, build.defect_class, splits, build.settings.drivers,
                build.seed,
            )
            for splits in (HELD_OUT, ("train",))
        )  # fmt: skip

        def to(real: np.ndarray, synthetic: np.ndarray) -> Comparison:
            return compare(real, synthetic, extractor=extractor.name, seed=build.seed)

        report = Report(held_out=to(held_out, kept), train=to(train, kept), unfiltered=to(held_out, features))
        build.keep(report)
        for side, part in (("held_out", held_out), ("accepted", kept)):
            Moments.of(part).save(build.path / f"{side}.npz")
        build.metadata |= {
            "KID": report.held_out.kid, "FID": report.held_out.fid, "KID floor": report.held_out.floor_kid,
            "report": [{"compared": side, **asdict(part)} for side, part in vars(report).items()],
        }  # fmt: skip

    return make


def whole_set(directories: Sequence[Path]) -> tuple[float, int, int]:
    """FID of all classes together, from the moments of their `fid_report` artifacts, and the numbers of synthetic and
    real images behind it: the paper's one figure."""
    sides = [
        reduce(Moments.merged, (Moments.load(directory / f"{name}.npz") for directory in directories))
        for name in ("accepted", "held_out")
    ]
    return frechet_distance(*sides), sides[0].n, sides[1].n


def gate_problems(found: Comparison, *, kid: float, fid: float) -> list[str]:
    """What a class's gate holds against it, a phrase each: KID or FID to held-out images above what is allowed."""
    figures = (("KID", found.kid, kid), ("FID", found.fid, fid))
    return [f"{name} {value:.3g} is above {limit:.3g}" for name, value, limit in figures if not value <= limit]
