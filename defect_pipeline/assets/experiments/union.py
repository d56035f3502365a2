"""Both systems and their union on the same data: what mask control costs StableSDG, and what adapters bring to drivers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from defect_pipeline.assets.accepted import read_verdicts
from defect_pipeline.assets.copying import read_copies
from defect_pipeline.assets.experiments.rows import interval, keep_table
from defect_pipeline.assets.experiments.shares import CHAIN, SECOND, Chain
from defect_pipeline.assets.faithfulness import read_twins
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_crops, remembering
from defect_pipeline.assets.stablesdg.adapt import class_windows
from defect_pipeline.assets.stablesdg.generate import read_generated
from defect_pipeline.assets.stage import Build, chain_settings, stage
from defect_pipeline.assets.synthesis import read_set
from defect_pipeline.assets.union.places import INSTEAD
from defect_pipeline.evaluation.distances import compare
from defect_pipeline.imaging.sheets import contact_sheet, heat_map
from defect_pipeline.lazy import pd
from defect_pipeline.store import Artifact

FIRST = CHAIN[: CHAIN.index("sadf_accepted") + 1]
UNION = tuple(dict.fromkeys(INSTEAD[name] for name in FIRST if name in INSTEAD))
COMPARED = (*FIRST, *SECOND, "stablesdg_copy_report", *UNION)
SYSTEMS = ("sadf", "stablesdg", "union")
SHOWN = 4  # images of each class and system
Made = dict[str, dict[str | None, Artifact]]  # by stage and class


@stage(
    parents=("inspection_images",),
    settings=lambda pipeline: (
        chain_settings(pipeline, *COMPARED), pipeline.settings.extractor, pipeline.settings.extractor_weights
    ),
    group="experiments",
    kinds={"torch", "diffusers"},
    gpu=True,
)  # fmt: skip
def table_union(build: Build) -> None:
    """The union against both systems: KID to held-out images, faithfulness, copies and accepted images.

    All images of each are judged, before any filter, by two sets of held-out ones: crops around defects, as the first
    system and the union paint, and whole pictures, as the second system does. Copies are counted as each system does:
    windows around the defects against such of train images, or whole images of the second system, which knows no masks.
    What the store lacks is made without its checks: a gate that closes is a result here.
    """
    chain = Chain(build, build.store, build.pipeline)
    made = {name: chain.make(name) for name in COMPARED}
    images = {k: _images(made, k) for k in build.classes()}
    judged = pd.DataFrame([row for k in build.classes() for row in _judged(build, made, k, images[k])])
    table = pd.DataFrame(
        [
            {"system": system}
            | {k: v for f in ("kid crops", "kid pictures") for k, v in interval(build, own[f], f).items()}
            | {f: own[f].mean() for f in ("in mask", "copies", "accepted")}
            | {"n": own["n"].sum(), "classes": len(own), "seed": own["seed"].iloc[0]}
            | {"extractor": own["extractor"].iloc[0]}
            for system, own in judged.groupby("system", sort=False)
        ]
    )
    keep_table(build, "table_union", table, judged)
    build.picture("table_union", _map(judged))
    rows = [(image, f"{k}: {name}") for k, own in images.items() for name, of in own.items() for image in of[:SHOWN]]
    build.picture("images", contact_sheet(*map(list, zip(*rows, strict=True)), columns=SHOWN * len(SYSTEMS)))


def _images(made: Made, k: str) -> dict[str, Sequence[np.ndarray]]:
    """What each system painted of a class."""
    painted = [
        read_set(made[images][k].path, made[bank][k].path)[0]
        for images, bank in (("sadf_images", "mask_bank"), ("union_images", "union_canvases"))
    ]
    generated = read_generated(made["stablesdg_images"][k].path)
    return dict(zip(SYSTEMS, (painted[0], generated, painted[1]), strict=True))


def _judged(build: Build, made: Made, k: str, images: dict[str, Sequence[np.ndarray]]) -> list[dict]:
    """A row for each system; what the second one has no masks for is NaN."""
    extractor, nothing = extractor_of(build), float("nan")
    known = remembering(build, extractor)
    pictures = known.features([crop.image for crop in class_windows(build, HELD_OUT, k)])
    crops = known.features([crop.image for crop in real_crops(build, k, HELD_OUT)])
    reports = {
        "sadf": ("copy_report", "faithfulness_report", "sadf_accepted"),
        "stablesdg": ("stablesdg_copy_report",),
        "union": tuple(INSTEAD[name] for name in ("copy_report", "faithfulness_report", "sadf_accepted")),
    }
    rows = []
    for system, (copies, *masked) in reports.items():
        features = extractor.features(images[system])
        row = {"class": k, "system": system, "n": len(features), "seed": build.pipeline.seed}
        for name, real in (("crops", crops), ("pictures", pictures)):
            found = compare(real, features, extractor=extractor.name, seed=build.pipeline.seed)
            row |= {f"kid {name}": found.kid, f"kid {name} low": found.kid_low, f"kid {name} high": found.kid_high}
            row |= {f"fid {name}": found.fid, f"kid {name} floor": found.floor_kid, f"{name}": found.n_real}
        row |= {"copies": read_copies(made[copies][k].path)[1].copies, "in mask": nothing, "accepted": nothing}
        if masked:
            twins, verdicts = (made[name][k].path for name in masked)
            row["in mask"] = read_twins(twins)[1].ratio
            row["accepted"] = float((read_verdicts(verdicts)["reason"] == "").mean())
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
