"""Images of one class painted in several ways: figures of each, a sheet, and the mean over the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline.assets.experiments.rows import interval, keep_rows, keep_table, rows_of
from defect_pipeline.assets.references import HELD_OUT, extractor_of, remembering
from defect_pipeline.assets.stablesdg.adapt import image_oriented
from defect_pipeline.assets.stablesdg.tune import Choice
from defect_pipeline.assets.stage import Build, Stage
from defect_pipeline.evaluation.copying import Originals
from defect_pipeline.evaluation.distances import frechet_distance, kernel_distance
from defect_pipeline.generator.canvases import in_turn
from defect_pipeline.imaging.crops import Crop, class_windows, groups_of
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.lazy import pd

if TYPE_CHECKING:
    from defect_pipeline.diffusion.backbone import Backbone

UNCHANGED = "train images, unchanged"
EACH = 6  # images that are shown
Painted = dict[tuple, list[np.ndarray]]  # images (S, S, 3) uint8 by what tells them from others


def paint(build: Build, crops: list[Crop], backbone: Backbone, chosen: Choice, prompt: str) -> list[np.ndarray]:
    """As many images as the profile asks for, from train ``crops`` in turn and the same noise whatever is compared."""
    sources = in_turn([crop.image for crop in crops], build.settings.stablesdg.images)
    names = [f"{i:04d}.png" for i in range(len(sources))]
    return list(image_oriented(build, backbone, sources, names, *chosen, prompt=prompt))


def judge(
    build: Build,
    crops: list[Crop],
    keys: tuple[str, ...],
    painted: Painted,
    further: Mapping[tuple, Mapping[str, float]] | None = None,
) -> None:
    """Keep a row of figures for each way of painting, named by its values for ``keys``, and show some images of each.

    Held-out images are what they are judged by, and train ``crops`` what they may be copies of. ``further`` are figures
    of a way of painting that its images do not tell.
    """
    extractor, dataset = extractor_of(build.settings), build.dataset
    known = remembering(extractor, build.cache("features"))
    originals = Originals.of(extractor, known, [crop.image for crop in crops], groups_of(dataset, crops))
    held_out = class_windows(dataset, build.defect_class, HELD_OUT, build.settings.drivers.size)
    real = known.features([crop.image for crop in held_out])
    rows = []
    for values, images in painted.items():
        features, (found, copies) = extractor.features(images), originals.judge(list(images))
        rows.append(
            {
                "class": build.defect_class, **dict(zip(keys, values, strict=True)),
                "kid": kernel_distance(real, features), "fid": frechet_distance(real, features),
                "copies": float(copies.mean()), "distance": float(found.feature_distance.mean()),
                "n": len(images), "n real": len(real), "extractor": extractor.name, **(further or {}).get(values, {}),
            }
        )  # fmt: skip
    keep_rows(build, rows)
    shown = min(EACH, *map(len, painted.values()))
    captioned = [(image, ", ".join(map(str, values))) for values, images in painted.items() for image in images[:shown]]
    build.picture("images", contact_sheet(*map(list, zip(*captioned, strict=True)), columns=shown))


def over_classes(
    build: Build, measured: Stage, keys: tuple[str, ...], *, further: Sequence[str] = (), of_each: Sequence[str] = ()
) -> pd.DataFrame:
    """The mean over the classes of every way of painting, kept as the table of the build's name, from the cells of ``measured``.

    ``further`` names figures to average beside the usual ones, ``of_each`` figures to give of every class, in a column
    "figure, class".
    """
    name = build.stage.name
    rows = rows_of(build, measured, build.classes)
    table = pd.DataFrame(
        [
            dict(zip(keys, values, strict=True))
            | {k: v for figure in ("kid", "fid") for k, v in interval(own[figure], figure, build.seed).items()}
            | {figure: own[figure].mean() for figure in ("copies", "distance", *further)}
            | {"n": own["n"].sum(), "classes": len(own), "extractor": own["extractor"].iloc[0]}
            | {f"{figure}, {k}": v for figure in of_each for k, v in zip(own["class"], own[figure], strict=True)}
            for values, own in rows.groupby(list(keys), sort=False)
        ]
    )
    keep_table(build, name, table, rows)
    return table
