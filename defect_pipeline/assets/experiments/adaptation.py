"""What the second system owes to its stages, its prompt, its strength and guidance: paper B, Tables II, III and IV.

Every cell paints images of one class in several ways, and judges each against held-out images; a table is the mean over
the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

from defect_pipeline import diffusion, generator
from defect_pipeline.assets.concept import training_of
from defect_pipeline.assets.experiments.painted import UNCHANGED, Painted, judge, over_classes, paint
from defect_pipeline.assets.experiments.rows import bars_of, table_stage
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import (
    PAINTED,
    encoded,
    load_adapted,
    lora_weights,
    token_embedding,
    train_windows,
)
from defect_pipeline.assets.stablesdg.tune import Choice, Tuned, strength_and_guidance
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.generator.loading import EMBEDDING, load_untouched
from defect_pipeline.imaging.crops import Crop
from defect_pipeline.imaging.sheets import heat_map
from defect_pipeline.imaging.subsets import Subset

if TYPE_CHECKING:
    from defect_pipeline.diffusion.backbone import Backbone

Adapted = tuple["Backbone", str]  # and its prompt
ADAPTED_FROM = (inspection_images, token_embedding, lora_weights)
LEARNED, IMAGES, PROMPT, STRENGTH, GUIDANCE = "learned", "images", "prompt", "strength", "guidance"
WAYS = ("from noise", "image-oriented")
PROMPTS = ("<unknown>", "A photo of <unknown>", "an image of a <unknown>", "a surface with <unknown>, close up")
GRID = ((0.1, 0.3, 0.5, 0.7, 0.9), (1.0, 2.0, 4.0, 8.0))


SETTINGS = (
    "stablesdg", "concept.learning_rate", "optimizer", "extractor", "extractor_weights", *PAINTED,
)  # fmt: skip


# --- Table II ------------------------------------------------------------------------------------------------------


@stage(
    parents=(*ADAPTED_FROM, strength_and_guidance),
    settings=SETTINGS,
    images=Subset(shows="own class", classes="shown"),
    group="experiments",
    kinds={"torch", "diffusers", "peft"},
    partitioned=True,
    gpu=True,
)
def table_ii_cell(build: Build) -> None:
    """Images of one class after token, adapters, both, or a training of all parameters; from noise and from real images.

    All adaptations take as many steps as the adapters do. The train images themselves stand beside them.
    """
    chosen, crops = build.read(strength_and_guidance).load(Tuned).chosen, train_windows(build)
    painted: Painted = {("nothing", UNCHANGED): [crop.image for crop in crops]}
    for learned, adapted in ADAPTED.items():
        backbone, prompt = adapted(build, crops)
        for way, strength in zip(WAYS, (1.0, chosen.strength), strict=True):
            painted[learned, way] = paint(build, crops, backbone, Choice(strength, chosen.guidance), prompt)
            build.progress(len(painted) - 1, len(ADAPTED) * len(WAYS))
    judge(build, crops, (LEARNED, IMAGES), painted)


@table_stage(inspection_images, table_ii_cell)
def table_ii(build: Build) -> None:
    """Paper B, Table II: KID, FID and copies by what was learned and what the images started from, over classes."""
    table = over_classes(build, table_ii_cell, (LEARNED, IMAGES))
    named = table.assign(row=table[LEARNED] + ", " + table[IMAGES])
    build.picture("table_ii", bars_of(named, "row", "kid", "KID to held-out images"))


def _token(build: Build, crops: Sequence[Crop]) -> Adapted:
    backbone = load_untouched(build.settings)
    diffusion.token.load_token(backbone, build.read(token_embedding).path / EMBEDDING)
    return backbone, build.settings.stablesdg.prompt


def _adapters(build: Build, crops: Sequence[Crop]) -> Adapted:
    settings, backbone = build.settings.stablesdg, load_untouched(build.settings)
    prompt = in_words(settings.prompt, build.defect_class)
    training = training_of(build, "adapters")
    generator.learning.learn_adapters(backbone, encoded(backbone, crops), prompt, settings, **training)
    return backbone, prompt


def _both(build: Build, crops: Sequence[Crop]) -> Adapted:
    return load_adapted(build), build.settings.stablesdg.prompt


def _all_parameters(build: Build, crops: Sequence[Crop]) -> Adapted:
    """Text encoder and U-Net as wholes, at the learning rate of the first system's concept."""
    settings, backbone = build.settings.stablesdg, load_untouched(build.settings)
    prompt = in_words(settings.prompt, build.defect_class)
    generator.learning.learn_all_parameters(
        backbone, encoded(backbone, crops), prompt, batch=settings.batch, steps=settings.steps,
        learning_rate=build.settings.concept.learning_rate, **training_of(build, "all parameters"),
    )  # fmt: skip
    return backbone, prompt


def in_words(prompt: str, defect_class: str) -> str:
    """The prompt with the class's name where the token stands."""
    return prompt.replace(diffusion.token.TOKEN, defect_class.replace("_", " "))


ADAPTED: dict[str, Callable[[Build, Sequence[Crop]], Adapted]] = {
    "token": _token,
    "adapters": _adapters,
    "token and adapters": _both,
    "all parameters": _all_parameters,
}


# --- Table III -----------------------------------------------------------------------------------------------------


@stage(
    parents=(inspection_images, strength_and_guidance),
    settings=SETTINGS,
    images=Subset(shows="own class", classes="shown"),
    group="experiments",
    kinds={"torch", "diffusers", "peft"},
    partitioned=True,
    gpu=True,
)
def table_iii_cell(build: Build) -> None:
    """Images of one class by the words around the token, in which token and adapters were learned."""
    chosen, crops = build.read(strength_and_guidance).load(Tuned).chosen, train_windows(build)
    latents, settings = encoded(load_untouched(build.settings), crops), build.settings.stablesdg
    painted: Painted = {}
    for number, prompt in enumerate(PROMPTS):
        backbone = load_untouched(build.settings)
        learning = generator.learning
        learning.learn_token(backbone, latents, prompt, settings, **training_of(build, f"token {number}"))
        learning.learn_adapters(backbone, latents, prompt, settings, **training_of(build, f"adapters {number}"))
        painted[(prompt,)] = paint(build, crops, backbone, chosen, prompt)
        build.progress(len(painted), len(PROMPTS))
    judge(build, crops, (PROMPT,), painted)


@table_stage(inspection_images, table_iii_cell)
def table_iii(build: Build) -> None:
    """Paper B, Table III: KID, FID and copies by prompt, over classes."""
    table = over_classes(build, table_iii_cell, (PROMPT,))
    build.picture("table_iii", bars_of(table, PROMPT, "kid", "KID to held-out images"))


# --- Table IV ------------------------------------------------------------------------------------------------------


@stage(
    parents=ADAPTED_FROM,
    settings=SETTINGS,
    images=Subset(shows="own class", classes="shown"),
    group="experiments",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)
def table_iv_cell(build: Build) -> None:
    """Images of one class for every strength and guidance of a grid, from the same noise and sources."""
    backbone, crops = load_adapted(build), train_windows(build)
    painted: Painted = {}
    for choice in product(*GRID):
        painted[choice] = paint(build, crops, backbone, Choice(*choice), build.settings.stablesdg.prompt)
        build.progress(len(painted), len(GRID[0]) * len(GRID[1]))
    judge(build, crops, (STRENGTH, GUIDANCE), painted)


@table_stage(inspection_images, table_iv_cell)
def table_iv(build: Build) -> None:
    """Paper B, Table IV: KID, FID and copies by strength and guidance, over classes, as a heat map."""
    table = over_classes(build, table_iv_cell, (STRENGTH, GUIDANCE))
    kid, copies = (table.pivot(index=STRENGTH, columns=GUIDANCE, values=figure) for figure in ("kid", "copies"))
    texts = [
        [f"{k:.3f}\n{c:.0%} copies" for k, c in zip(*rows, strict=True)]
        for rows in zip(kid.to_numpy(), copies.to_numpy(), strict=True)
    ]
    labels = [f"s = {s:g}" for s in kid.index], [f"guidance {w:g}" for w in kid.columns]
    build.picture("table_iv", heat_map(kid.to_numpy(), texts, *labels, "KID to held-out images"))
