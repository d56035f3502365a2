"""Both systems and their union on the same data: what mask control costs StableSDG, and what adapters bring to drivers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.experiments.rows import interval, keep_table
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_crops, remembering
from defect_pipeline.assets.stablesdg.generate import read_generated
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import read_set
from defect_pipeline.evaluation.distances import compare
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.imaging.crops import class_windows
from defect_pipeline.imaging.sheets import contact_sheet, heat_map
from defect_pipeline.lazy import pd
from defect_pipeline.store import Artifact

SYSTEMS = ("sadf", "stablesdg", "union")
EACH = 4  # images of each class and system that are shown
Made = dict[Stage, dict[str | None, Artifact]]  # by stage and class


def table_union(first: Masked, union: Masked, generated: Stage, copies: Stage, compared: Sequence[Stage]) -> Stage:
    """The stage that holds the union against both systems: it makes the stages that are ``compared``, in order, among
    them ``generated`` images and their ``copies`` of the second one."""

    @stage(
        name="table_union",
        parents=(inspection_images,),
        settings=("extractor", "extractor_weights", "drivers"),
        makes=tuple(compared),
        group="experiments",
        kinds={"torch", "diffusers"},
        gpu=True,
    )
    def make(build: Build) -> None:
        """The union against both systems: KID to held-out images, faithfulness, copies and accepted images.

        All images of each are judged, before any filter, by two sets of held-out ones: crops around defects, as the first
        system and the union paint, and whole pictures, as the second system does. Copies are counted as each system does:
        windows around the defects against such of train images, or whole images of the second system, which knows no masks.
        What the store lacks is made without its checks: a gate that closes is a result here.
        """
        chain = build.chain()
        made = {one: chain.make(one) for one in compared}
        images = {k: _images(made, first, generated, union, k) for k in build.classes}
        judged = pd.DataFrame(
            [row for k in build.classes for row in _judged(build, made, first, copies, union, k, images[k])]
        )
        table = pd.DataFrame(
            [
                {"system": system}
                | {k: v for f in ("kid crops", "kid pictures") for k, v in interval(own[f], f, build.seed).items()}
                | {f: own[f].mean() for f in ("in mask", "copies", "accepted")}
                | {"n": own["n"].sum(), "classes": len(own), "seed": own["seed"].iloc[0]}
                | {"extractor": own["extractor"].iloc[0]}
                for system, own in judged.groupby("system", sort=False)
            ]
        )
        keep_table(build, "table_union", table, judged)
        build.picture("table_union", _map(judged))
        rows = [(image, f"{k}: {name}") for k, own in images.items() for name, of in own.items() for image in of[:EACH]]
        build.picture("images", contact_sheet(*map(list, zip(*rows, strict=True)), columns=EACH * len(SYSTEMS)))

    return make


def _images(made: Made, first: Masked, generated: Stage, union: Masked, k: str) -> dict[str, Sequence[np.ndarray]]:
    """What each system painted of a class."""
    painted = [read_set(made[one.images][k].path, made[one.bank][k].path)[0] for one in (first, union)]
    return dict(zip(SYSTEMS, (painted[0], read_generated(made[generated][k]), painted[1]), strict=True))


def _judged(
    build: Build,
    made: Made,
    first: Masked,
    copies: Stage,
    union: Masked,
    k: str,
    images: dict[str, Sequence[np.ndarray]],
) -> list[dict]:
    """A row for each system; what the second one has no masks for is NaN."""
    extractor, nothing = extractor_of(build.settings), float("nan")
    known, dataset, drivers = remembering(extractor, build.cache("features")), build.dataset, build.settings.drivers
    pictures = known.features([crop.image for crop in class_windows(dataset, k, HELD_OUT, drivers.size)])
    crops = known.features([crop.image for crop in real_crops(dataset, k, HELD_OUT, drivers, build.seed)])
    reports = {
        "sadf": (first.copies, first),
        "stablesdg": (copies, None),
        "union": (union.copies, union),
    }
    rows = []
    for system, (nearest, masked) in reports.items():
        features = extractor.features(images[system])
        row = {"class": k, "system": system, "n": len(features), "seed": build.seed}
        for name, real in (("crops", crops), ("pictures", pictures)):
            found = compare(real, features, extractor=extractor.name, seed=build.seed)
            row |= {f"kid {name}": found.kid, f"kid {name} low": found.kid_low, f"kid {name} high": found.kid_high}
            row |= {f"fid {name}": found.fid, f"kid {name} floor": found.floor_kid, f"{name}": found.n_real}
        row |= {"copies": made[nearest][k].load(Copying).copies, "in mask": nothing, "accepted": nothing}
        if masked:
            verdicts = read_verdicts(made[masked.accepted][k].path)
            row["in mask"] = made[masked.faithfulness][k].load(TwinFigures).ratio
            row["accepted"] = float((verdicts["reason"] == "").mean())
        rows.append(row | {"extractor": extractor.name})
    return rows


def _map(judged: pd.DataFrame) -> np.ndarray:
    """KID to held-out crops as colours, a row for each class and a column for each system, with the other figures."""
    classes = judged["class"].unique().tolist()
    by = judged.set_index(["class", "system"])

    def text(row: pd.Series) -> str:
        masked = "" if np.isnan(row["in mask"]) else f"\n{row['in mask']:.0f}x in mask\n{row['accepted']:.0%} accepted"
        return f"{row['kid crops']:.3f}\npictures {row['kid pictures']:.3f}\n{row['copies']:.0%} copies{masked}"

    texts = [[text(by.loc[(k, system)]) for system in SYSTEMS] for k in classes]
    values = np.array([[by.at[(k, system), "kid crops"] for system in SYSTEMS] for k in classes], float)
    return heat_map(values, texts, classes, SYSTEMS, "KID to held-out crops; to held-out pictures")
