"""Whether the synthetic defects of each class look like that class, and not like another one."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from defect_pipeline.assets.references import HELD_OUT, defect_window, extractor_of, real_crops, window_settings
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import read_set
from defect_pipeline.evaluation.classes import confusion
from defect_pipeline.imaging.subsets import Subset

REPORT = "report.json"


@dataclass(frozen=True)
class ClassConfusion:
    """How many windows around the defects of class i (row) a probe trained on train windows takes for class j."""

    classes: list[str]
    synthetic: list[list[int]]
    held_out: list[list[int]]  # real ones: what the probe can tell at all

    def problems(self) -> list[str]:
        """The classes whose synthetic defects are mostly taken for another, or for one with which an exchange of names
        would fit better, though the probe can tell the real ones.

        That few are taken for their own class is no proof of anything else: a weak probe scatters them.
        """
        from scipy.optimize import linear_sum_assignment  # here, for scipy.optimize loads half a second

        counts = np.asarray(self.synthetic)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        own_when_in_doubt = 1e-9 * np.eye(len(shares))
        _, named = linear_sum_assignment(shares + own_when_in_doubt, maximize=True)
        found = []
        for k, (name, real) in enumerate(zip(self.classes, np.asarray(self.held_out), strict=True)):
            taken = int(shares[k].argmax()) if shares[k].max() > 0.5 else int(named[k])
            if taken != k and real.any() and real[k] == real.max():
                n, total = counts[k, taken], counts[k].sum()
                found.append(f"{n} of {total} synthetic {name} defects look like {self.classes[taken]}.")
        return found


@stage(
    parents=("inspection_images", "mask_bank", "sadf_images"),
    settings=window_settings,
    images=Subset(shows="defects"),
    group="evaluation",
    kinds={"torch"},
    gpu=True,
)  # fmt: skip
def class_report(build: Build) -> None:
    """Which class a probe trained on real defects takes each class's synthetic, and held-out real, defects for."""
    extractor, classes = extractor_of(build), list(build.classes())

    def real(splits: tuple[str, ...]) -> list[list[np.ndarray]]:
        return [[defect_window(crop.image, crop.mask()) for crop in real_crops(build, k, splits)] for k in classes]

    def synthetic(k: str) -> list[np.ndarray]:
        images, masks = read_set(build.parent("sadf_images", k).path, build.parent("mask_bank", k).path)
        return [defect_window(image, mask) for image, mask in zip(images, masks, strict=True)]

    def described(windows: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(classes)), [len(part) for part in windows])
        return extractor.features([window for part in windows for window in part]), labels

    train = described(real(("train",)))
    report = ClassConfusion(
        classes,
        *(
            confusion(*train, *described(windows), len(classes)).tolist()
            for windows in ([synthetic(k) for k in classes], real(HELD_OUT))
        ),
    )
    (build.path / REPORT).write_text(json.dumps(asdict(report)))
    for name in ("synthetic", "held_out"):
        rows = zip(classes, getattr(report, name), strict=True)
        build.metadata[name] = [{"class": k, **dict(zip(classes, row, strict=True))} for k, row in rows]


def read_confusion(directory: Path) -> ClassConfusion:
    """What a `class_report` artifact says."""
    return ClassConfusion(**json.loads((directory / REPORT).read_text()))
