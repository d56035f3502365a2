"""How far a class's synthetic images are from real ones: KID, FID beside it, the real-vs-real floor under both."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import Comparison, compare
from defect_pipeline.evaluation.features import Extractor, load_extractor
from defect_pipeline.imaging.crops import defect_crops
from defect_pipeline.imaging.io import read_image

CROPS_PER_IMAGE = 3
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Report:
    """The synthetic images of a class against real crops of held-out images, and against those of train images.

    Held-out (val and test) is what counts; a generator that copies is near to train alone.
    """

    held_out: Comparison
    train: Comparison

    @classmethod
    def read(cls, directory: Path) -> "Report":
        return cls(
            **{name: Comparison(**part) for name, part in json.loads((directory / "report.json").read_text()).items()}
        )


@stage(
    parents=("inspection_images", "sadf_images"),
    settings=lambda pipeline: (
        pipeline.settings.extractor, pipeline.settings.extractor_weights, pipeline.settings.drivers.size, pipeline.settings.drivers.zoom,
    ),
    group="synthesis",
    kinds={"torch"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def fid_report(build: Build) -> None:
    """KID with its confidence interval and FID to held-out and to train images, beside the real-vs-real floor."""
    extractor = extractor_of(build)
    synthetic = [read_image(path) for path in sorted((build.parent("sadf_images").path / "images").glob("*.png"))]
    features = extractor.features(np.stack(synthetic))

    def to(splits: tuple[str, ...]) -> Comparison:
        return compare(
            real_features(build, extractor, build.defect_class, splits),
            features,
            extractor=extractor.name,
            seed=build.pipeline.seed,
        )

    report = Report(held_out=to(HELD_OUT), train=to(("train",)))
    (build.path / "report.json").write_text(
        json.dumps({"held_out": asdict(report.held_out), "train": asdict(report.train)})
    )
    build.metadata |= {
        "KID": report.held_out.kid, "FID": report.held_out.fid, "KID floor": report.held_out.floor_kid,
        "report": [{"reference": name, **asdict(part)} for name, part in (("held-out", report.held_out), ("train", report.train))],
    }  # fmt: skip


def extractor_of(build: Build) -> Extractor:
    """The profile's feature extractor, on its device."""
    settings = build.settings
    weights = Path(settings.extractor_weights) if settings.extractor_weights else None
    return load_extractor(settings.extractor, weights, device=settings.device)


def real_features(build: Build, extractor: Extractor, defect_class: str, splits: tuple[str, ...]) -> np.ndarray:
    """Features (n, D) of real crops of a class. Raises PipelineError where there are too few to compare with."""
    dataset, drivers = build.dataset(), build.settings.drivers
    ids = [i for i in dataset.of_class(defect_class) if dataset.images.at[i, "split"] in splits]
    crops = defect_crops(
        dataset, ids, defect_class, drivers.size,
        per_image=CROPS_PER_IMAGE, zoom=drivers.zoom, seed=build.pipeline.seed,
    )  # fmt: skip
    real = [crop.image for crop in crops]
    if len(real) < 4:
        raise PipelineError(
            f"Class {defect_class!r} has {len(ids)} images in {' and '.join(splits)} of {dataset.root}, too few to "
            "compare with: add images of other parts, or take the class out."
        )
    return extractor.features(np.stack(real))


def gate_problems(report: Report, kid: float, fid: float) -> list[str]:
    """What a class's gate holds against it, a phrase each: KID or FID to held-out images above the thresholds."""
    found = (("KID", report.held_out.kid, kid), ("FID", report.held_out.fid, fid))
    return [f"{name} {value:.3g} is above {limit:.3g}" for name, value, limit in found if not value <= limit]
