"""Whether the synthetic defects of each class look like that class, and not like another one."""

from dataclasses import dataclass

import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.references import HELD_OUT, WINDOWS, extractor_of, real_crops
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import read_set
from defect_pipeline.evaluation.classes import confusion
from defect_pipeline.imaging.crops import defect_window
from defect_pipeline.imaging.subsets import Subset


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


def class_report(images: Stage, bank: Stage, *, name: str, group: str) -> Stage:
    """The stage that asks a probe for the class of synthetic defects."""

    @stage(
        name=name,
        parents=(inspection_images, bank, images),
        settings=WINDOWS,
        images=Subset(shows="defects"),
        group=group,
        kinds={"torch"},
        gpu=True,
    )
    def make(build: Build) -> None:
        """Which class a probe trained on real defects takes each class's synthetic, and held-out real, defects for."""
        extractor, classes = extractor_of(build.settings), list(build.classes)

        def real(splits: tuple[str, ...]) -> list[list[np.ndarray]]:
            crops = [real_crops(build.dataset, k, splits, build.settings.drivers, build.seed) for k in classes]
            return [[defect_window(crop.image, crop.mask()) for crop in own] for own in crops]

        def synthetic(k: str) -> list[np.ndarray]:
            pairs = zip(*read_set(build.read(images, k).path, build.read(bank, k).path), strict=True)
            return [defect_window(image, mask) for image, mask in pairs]

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
        build.keep(report)
        for side in ("synthetic", "held_out"):
            rows = zip(classes, getattr(report, side), strict=True)
            build.metadata[side] = [{"class": k, **dict(zip(classes, row, strict=True))} for k, row in rows]

    return make
