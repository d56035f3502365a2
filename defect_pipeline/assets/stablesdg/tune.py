"""How far to noise a class's images and how hard to guide them (paper B, Table I), found without looking at val or test.

The paper picks strength and guidance by FID to the very images that seed the generation, which rewards copying. Here
one half of the class's train parts gives the sources and the other half judges, and what copies its sources is out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.references import extractor_of, remembering
from defect_pipeline.assets.stablesdg.adapt import (
    OWN_TRAIN,
    PAINTED,
    image_oriented,
    load_adapted,
    lora_weights,
    token_embedding,
    train_windows,
)
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.evaluation.copying import Originals
from defect_pipeline.evaluation.distances import kernel_distance
from defect_pipeline.imaging.crops import Crop, groups_of
from defect_pipeline.imaging.sheets import contact_sheet, heat_map

if TYPE_CHECKING:
    from defect_pipeline.diffusion.backbone import Backbone

EACH = 6  # images of a candidate that are shown


class Choice(NamedTuple):
    """Strength s, where T' = s T, and guidance."""

    strength: float
    guidance: float


@dataclass(frozen=True)
class Tried:
    """A candidate after a round of n images."""

    strength: float
    guidance: float
    round: int
    n: int
    kid: float  # to train images of other parts than the sources'
    kid_of_copies: float  # of the sources themselves, handed back unchanged
    copies: float  # share of the images that are nearer to a source than real ones of two parts are to each other


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and every candidate of every round, the winner last; none where nothing was tried."""

    chosen: Choice
    tried: list[Tried]


@stage(
    parents=(inspection_images, token_embedding, lora_weights),
    settings=(
        "stablesdg.tune",
        "stablesdg.tuning",
        "stablesdg.strength",
        "stablesdg.guidance",
        "stablesdg.per_class",
        "thresholds.copies",
        "extractor",
        "extractor_weights",
        *PAINTED,
    ),
    images=OWN_TRAIN,
    group="stablesdg",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def strength_and_guidance(build: Build) -> None:
    """Strength and guidance of the class: the profile's, or found by successive halving on KID to train images of other parts.

    Every round, the better half of the candidates goes on with twice the images, the same noise in all. A candidate
    that copies more than the profile allows stands behind all that do not.
    """
    crops, settings = train_windows(build), build.settings.stablesdg
    sources, judges = _halves(crops, groups_of(build.dataset, crops), build.seed)
    tried: list[Tried] = []
    if not settings.tune or min(len(sources), len(judges)) < 2:
        chosen = Choice(*settings.of(build.defect_class))
        build.metadata["chosen"] = "the profile's: too few parts to tune on" if settings.tune else "the profile's"
    else:
        tried, images = _halving(build, load_adapted(build), sources, judges)
        best = tried[-1]
        chosen = Choice(best.strength, best.guidance)
        _show(build, tried, images)
    build.keep(Tuned(chosen, tried))
    build.metadata |= chosen._asdict() | ({"tried": [asdict(one) for one in tried]} if tried else {})


def _halves(crops: Sequence[Crop], groups: Sequence[str], seed: int) -> tuple[list[Crop], list[Crop]]:
    """The crops of a random half of the parts ``groups``, and of the other half."""
    order = np.random.default_rng(seed).permutation(sorted(set(groups))).tolist()
    first = set(order[: (len(order) + 1) // 2])
    return (
        [crop for crop, group in zip(crops, groups, strict=True) if group in first],
        [crop for crop, group in zip(crops, groups, strict=True) if group not in first],
    )


def _halving(
    build: Build, backbone: Backbone, sources: list[Crop], judges: list[Crop]
) -> tuple[list[Tried], dict[Choice, np.ndarray]]:
    """All that was tried, the winner last, and what each candidate painted."""
    tuning = build.settings.stablesdg.tuning
    extractor, candidates = (
        extractor_of(build.settings),
        [Choice(s, w) for s in tuning.strengths for w in tuning.guidances],
    )
    known = remembering(extractor, build.cache("features"))
    real = known.features([crop.image for crop in judges])
    originals = Originals.of(extractor, known, [crop.image for crop in sources], groups_of(build.dataset, sources))
    painted: dict[Choice, np.ndarray] = {}
    tried: list[Tried] = []
    number, n = 0, tuning.images
    while len(candidates) > 1:
        given = [sources[i % len(sources)].image for i in range(n)]
        of_copies = kernel_distance(real, extractor.features(given))
        ranked: list[Tried] = []
        for place, candidate in enumerate(candidates, start=1):
            before = painted.get(candidate, np.empty((0, *given[0].shape), np.uint8))
            names = [f"tuning/{i}" for i in range(len(before), n)]
            new = image_oriented(build, backbone, given[len(before) :], names, *candidate)
            painted[candidate] = images = np.concatenate([before, new])
            kid, copies = (
                kernel_distance(real, extractor.features(images)),
                float(originals.judge(list(images))[1].mean()),
            )
            ranked.append(Tried(*candidate, number, n, kid, of_copies, copies))
            build.progress(place, len(candidates), round=number, kid=kid, copies=copies)
        allowed = build.settings.thresholds.limit("copies", build.defect_class)
        ranked.sort(key=lambda one: (max(one.copies - allowed, 0), one.kid), reverse=True)  # the best last
        tried += ranked
        candidates = [Choice(one.strength, one.guidance) for one in ranked[len(ranked) // 2 :]]
        number, n = number + 1, 2 * n
    build.metadata |= {"sources": len(sources), "judged by": len(judges), "extractor": extractor.name}
    return tried, painted


def _show(build: Build, tried: list[Tried], painted: dict[Choice, np.ndarray]) -> None:
    """KID over strength and guidance, as far as each candidate came, and a row of images of each."""
    last = {Choice(one.strength, one.guidance): one for one in tried}
    strengths, guidances = (sorted({getattr(choice, name) for choice in last}) for name in Choice._fields)
    values = np.array([[last[Choice(s, w)].kid for w in guidances] for s in strengths])
    texts = [
        [f"{one.kid:.3f}\n{one.copies:.0%} copies\nn = {one.n}" for w in guidances for one in [last[Choice(s, w)]]]
        for s in strengths
    ]
    labels = ([f"s = {s:g}" for s in strengths], [f"guidance {w:g}" for w in guidances])
    title = f"{build.defect_class}: KID (of copies {tried[-1].kid_of_copies:.3f})"
    build.picture("strength and guidance", heat_map(values, texts, *labels, title))
    shown = min(EACH, *map(len, painted.values()))
    rows = [
        (image, f"s {c.strength:g}, guidance {c.guidance:g}") for c, own in painted.items() for image in own[:shown]
    ]
    build.picture("candidates", contact_sheet(*map(list, zip(*rows, strict=True)), columns=shown))
