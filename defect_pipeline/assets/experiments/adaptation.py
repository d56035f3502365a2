"""Which stage of the second system brings what: paper B, Table II, on every class of the data."""

from collections.abc import Callable

import pandas as pd

from defect_pipeline.assets.concept import backbone_of, load_untouched, train
from defect_pipeline.assets.copying import Originals
from defect_pipeline.assets.experiments.rows import bars_of, interval, keep_rows, keep_table, rows_of
from defect_pipeline.assets.references import HELD_OUT, extractor_of, remembering
from defect_pipeline.assets.stablesdg.adapt import (
    EMBEDDING,
    class_windows,
    fit_linear,
    image_oriented,
    learn_adapters,
    load_adapted,
    painted_with,
    train_latents,
)
from defect_pipeline.assets.stablesdg.tune import Choice
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.diffusion.adapters import prompted_loss
from defect_pipeline.diffusion.backbone import Backbone
from defect_pipeline.diffusion.token import TOKEN, load_token
from defect_pipeline.evaluation.distances import frechet_distance, kernel_distance
from defect_pipeline.imaging.sheets import contact_sheet

WAYS = ("from noise", "image-oriented")
UNCHANGED = ("nothing", "train images, unchanged")
SHOWN = 6


def _settings(pipeline: Pipeline) -> tuple:
    settings = pipeline.settings
    return (
        settings.stablesdg, settings.concept.learning_rate, settings.extractor, settings.extractor_weights,
        backbone_of(pipeline), *painted_with(pipeline),
    )  # fmt: skip


@stage(
    parents=("inspection_images", "token_embedding", "lora_weights", "strength_and_guidance"),
    settings=_settings,
    group="experiments",
    kinds={"torch", "diffusers", "peft"},
    partitioned=True,
    gpu=True,
)
def table_ii_cell(build: Build) -> None:
    """Images of one class after token, adapters, both, or a training of all parameters; from noise and from real images.

    All adaptations take as many steps as the adapters do. The train images themselves stand beside them.
    """
    n, chosen = build.settings.stablesdg.images, Choice.read(build.parent("strength_and_guidance").path)
    crops = class_windows(build, ("train",))
    sources, names = [crops[i % len(crops)].image for i in range(n)], [f"{i:04d}.png" for i in range(n)]
    extractor, originals = extractor_of(build), Originals.of(build, crops, [crop.image for crop in crops])
    real = remembering(build, extractor).features([crop.image for crop in class_windows(build, HELD_OUT)])
    pictures = {UNCHANGED: [crop.image for crop in crops]}
    for learned, adapted in ADAPTED.items():
        backbone, prompt = adapted(build)
        for way, strength in zip(WAYS, (1.0, chosen.strength), strict=True):
            pictures[learned, way] = list(
                image_oriented(build, backbone, sources, names, strength, chosen.guidance, prompt=prompt)
            )
            build.progress(len(pictures) - 1, len(ADAPTED) * len(WAYS))
    rows = []
    for (learned, way), images in pictures.items():
        features, (found, copies) = extractor.features(images), originals.judge(images)
        rows.append(
            {
                "class": build.defect_class, "learned": learned, "images": way,
                "kid": kernel_distance(real, features), "fid": frechet_distance(real, features),
                "copies": float(copies.mean()), "distance": float(found.feature_distance.mean()),
                "n": len(images), "n real": len(real), "extractor": extractor.name,
            }
        )  # fmt: skip
    keep_rows(build, rows)
    shown = [(image, f"{learned}, {way}") for (learned, way), images in pictures.items() for image in images[:SHOWN]]
    build.picture("images", contact_sheet(*map(list, zip(*shown, strict=True)), columns=SHOWN))


@stage(
    parents=("inspection_images", "table_ii_cell"),
    settings=lambda pipeline: None,
    group="experiments",
    kinds={"pandas"},
)
def table_ii(build: Build) -> None:
    """Paper B, Table II: KID, FID and copies by what was learned and what the images started from, over classes."""
    rows = rows_of(build, "table_ii_cell", build.classes())
    table = pd.DataFrame(
        [
            {"learned": learned, "images": way}
            | {k: v for figure in ("kid", "fid") for k, v in interval(build, own[figure], figure).items()}
            | {"copies": own["copies"].mean(), "distance": own["distance"].mean(), "n": own["n"].sum()}
            | {"classes": len(own), "extractor": own["extractor"].iloc[0]}
            for (learned, way), own in rows.groupby(["learned", "images"], sort=False)
        ]
    )
    keep_table(build, "table_ii", table, rows)
    named = table.assign(row=table["learned"] + ", " + table["images"])
    build.picture("table_ii", bars_of(named, "row", "kid", "KID to held-out images"))


# --- What is learned -----------------------------------------------------------------------------------------------


def _token(build: Build) -> tuple[Backbone, str]:
    backbone = load_untouched(build)
    load_token(backbone, build.parent("token_embedding").path / EMBEDDING)
    return backbone, build.settings.stablesdg.prompt


def _adapters(build: Build) -> tuple[Backbone, str]:
    backbone = load_untouched(build)
    learn_adapters(build, backbone, train_latents(build, backbone), _in_words(build), name="adapters")
    return backbone, _in_words(build)


def _both(build: Build) -> tuple[Backbone, str]:
    return load_adapted(build), build.settings.stablesdg.prompt


def _all_parameters(build: Build) -> tuple[Backbone, str]:
    """Text encoder and U-Net as wholes, at the learning rate of the first system's concept."""
    settings, backbone = build.settings.stablesdg, load_untouched(build)
    latents = train_latents(build, backbone)
    fit_linear(backbone, latents)
    networks = (backbone.unet, backbone.text_encoder)
    parameters = [p for network in networks for p in network.requires_grad_(True).parameters()]
    loss_at = prompted_loss(backbone, latents, _in_words(build), batch=settings.batch)
    train(build, parameters, loss_at, settings.steps, build.settings.concept.learning_rate, name="all parameters")
    for network in networks:
        network.requires_grad_(False)
    return backbone, _in_words(build)


def _in_words(build: Build) -> str:
    """The prompt with the class's name where the token stands."""
    return build.settings.stablesdg.prompt.replace(TOKEN, build.defect_class.replace("_", " "))


ADAPTED: dict[str, Callable[[Build], tuple[Backbone, str]]] = {
    "token": _token,
    "adapters": _adapters,
    "token and adapters": _both,
    "all parameters": _all_parameters,
}
