"""What the generator is worth, beyond the gate: made by `defect-pipeline quality`, not by every run.

The autoencoder alone; KID at each step of the method, with the cheap baseline beside it; whether defects stand in
their masks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from defect_pipeline import generator, recognition
from defect_pipeline.assets.concept import LOADED
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.faithfulness import twins_sheet
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features, remembering
from defect_pipeline.assets.segmentation import annotated_windows, load_segmentor
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import (
    IMAGES,
    PAINTED,
    PaintedFrom,
    read_set,
)
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import compare, frechet_distance, kernel_distance
from defect_pipeline.evaluation.faithfulness import TwinFigures, twin_figures, twin_table
from defect_pipeline.evaluation.reconstruction import reconstruction
from defect_pipeline.evaluation.segmentation import mask_iou
from defect_pipeline.evaluation.variety import variety
from defect_pipeline.generator.canvases import image_seeds
from defect_pipeline.generator.loading import load_untouched
from defect_pipeline.generator.prompts import concept_prompt, prior_prompt
from defect_pipeline.imaging.copy_paste import copy_pasted
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.geometry import square_crop
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

COMPARED = ("extractor", "extractor_weights", "drivers.zoom")
SCORE = 0.5  # of a detection that counts
VARIED = 10  # drivers, and images of each


# --- The autoencoder -----------------------------------------------------------------------------------------------


@stage(
    parents=(inspection_images,),
    settings=("drivers.size", *LOADED),
    images=Subset(("test",)),
    group="evaluation",
    kinds={"torch", "diffusers"},
    gpu=True,
)
def autoencoder_report(build: Build) -> None:
    """What the backbone's autoencoder keeps of held-out images, cut out at their own resolution: PSNR, gradient energy."""
    backbone = load_untouched(build.settings)
    images, masks = _native_crops(build.dataset, build.settings.drivers.size)
    decoded = list(backbone.decode(backbone.encode_pixels(np.stack(images))).numpy())
    figures = reconstruction(images, decoded, masks)
    build.keep(figures)
    build.metadata |= asdict(figures)
    errors = [
        np.clip(8 * np.abs(x.astype(int) - y), 0, 255).astype(np.uint8) for x, y in zip(images, decoded, strict=True)
    ]
    shown = slice(None, None, max(1, len(images) // 8))
    rows = [images[shown][:8], decoded[shown][:8], errors[shown][:8]]
    captions = [name for name, row in zip(("image", "decoded", "error x 8"), rows, strict=True) for _ in row]
    build.picture("crops", contact_sheet([x for row in rows for x in row], captions, columns=len(rows[0]), cell=192))


def _native_crops(dataset: Dataset, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A crop of each test image that is large enough, around its defect, and its mask: nothing is resized."""
    images, masks = [], []
    for image_id in dataset.of_split("test"):
        image, named = dataset.image(image_id), dataset.masks(image_id)
        height, width = image.shape[:2]
        if min(height, width) < size:
            continue
        mask = np.logical_or.reduce([m for _, m in named]) if named else np.zeros((height, width), bool)
        x, y, side = square_crop(image.shape, mask, zoom=min(height, width) / size)
        x = min(max(0, x + (side - size) // 2), width - size)  # a large defect was given a larger square
        y = min(max(0, y + (side - size) // 2), height - size)
        images.append(image[y : y + size, x : x + size])
        masks.append(mask[y : y + size, x : x + size])
    if not images:
        raise PipelineError(
            f"No test image under {dataset.root} is {size} px wide and high: there is nothing to compare."
        )
    return images, masks


# --- KID, step by step ---------------------------------------------------------------------------------------------


def kid_ladder(painted_from: PaintedFrom, images: Stage) -> Stage:
    """The stage that measures KID at each step of the method."""

    @stage(
        name="kid_ladder",
        parents=(*painted_from.parents, images),
        settings=("concept.class_noun", *PAINTED, *COMPARED),
        images=Subset(HELD_OUT, "own class", "shown"),
        group="evaluation",
        kinds={"torch", "diffusers"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """KID to held-out images of the un-adapted backbone, of the concept, of concept and condition, and of baselines."""
        canvases = painted_from.canvases(build, build.defect_class)
        n, concept, synthesis = len(canvases.drivers), build.settings.concept, build.settings.synthesis
        seeds = image_seeds(build.seed, build.defect_class, "ladder", n)
        backbone, hypernetwork = painted_from.generator(build)
        painting, token = generator.painting, concept.token
        from_noise = partial(
            painting.from_noise, seeds=seeds, size=build.settings.drivers.size,
            steps=synthesis.steps, batch=synthesis.batch, guidance=synthesis.guidance,
        )  # fmt: skip
        crops = read_training({build.defect_class: build.read(painted_from.drivers).path})
        rungs = {
            "un-adapted backbone": from_noise(load_untouched(build.settings), [prior_prompt(concept.class_noun)] * n),
            "concept": from_noise(backbone, [concept_prompt(token)] * n),
            "concept + condition": list(
                painting.paint(
                    backbone, hypernetwork, canvases, seeds, synthesis=synthesis, token=token, from_noise=True
                )
            ),
            "the same, as shipped": [
                read_image(file) for file in sorted((build.read(images).path / IMAGES).glob("*.png"))
            ],
            "inpainting": list(painting.inpainted(backbone, canvases, seeds, synthesis=synthesis, token=token)),
            "copy-paste": copy_pasted(crops.images, crops.masks, list(canvases.backgrounds), build.seed)[0],
        }
        extractor = extractor_of(build.settings)
        real = real_features(
            remembering(extractor, build.cache("features")), build.dataset, build.defect_class, HELD_OUT, build.settings.drivers,
            build.seed,
        )  # fmt: skip
        report = {
            name: compare(real, extractor.features(made), extractor=extractor.name, seed=build.seed)
            for name, made in rungs.items()
        }
        build.keep(report)
        build.metadata["ladder"] = [{"images": name, **asdict(part)} for name, part in report.items()]
        columns = min(6, *map(len, rungs.values()))
        captions = [name for name in rungs for _ in range(columns)]
        shown = [image for made in rungs.values() for image in made[:columns]]
        build.picture("ladder", contact_sheet(shown, captions, columns=columns))
        build.picture("from noise", contact_sheet(rungs["concept + condition"][:36], columns=6))

    return make


# --- A segmentor's view ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Of a class: twins all from noise, and whether a segmentor trained on real images sees what was asked for.

    The IoUs are means over images, of the class's detections together against the mask.
    """

    from_noise: TwinFigures
    iou_synthetic: float
    iou_real: float  # of the same segmentor, on real test images
    n_synthetic: int
    n_real: int


def agreement_report(painted_from: PaintedFrom, images: Stage, segmentor: Stage) -> Stage:
    """The stage that asks a real-trained segmentor for the masks."""

    @stage(
        name="agreement_report",
        parents=(*painted_from.parents, images, segmentor),
        settings=("segmentor", *PAINTED),
        images=Subset(("test",), "own class"),
        group="evaluation",
        kinds={"torch", "diffusers"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """IoU of a real-trained segmentor against the masks asked for, beside real images; twins painted all from noise."""
        painted, masks = read_set(build.read(images).path, build.read(painted_from.bank).path)
        category = build.classes.index(build.defect_class)
        test_images, test_truth = annotated_windows(build.dataset, "test", build.settings.drivers.size, defective=True)
        own = [i for i, instances in enumerate(test_truth) if any(k == category for k, _ in instances)]
        truth = [np.any([m for k, m in test_truth[i] if k == category], axis=0) for i in own]
        model = load_segmentor(
            build.read(segmentor).path, "real", len(build.classes), build.settings.drivers.size,
            build.settings.segmentor, seed=build.seed, device=build.settings.device,
        )  # fmt: skip

        def iou(seen: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
            found = [
                np.any([*p.masks[(p.labels == category) & (p.scores >= SCORE)], np.zeros_like(mask)], axis=0)
                for p, mask in zip(recognition.segmentor.predict(model, seen), wanted, strict=True)
            ]
            return float(np.mean([mask_iou(mask, f) for mask, f in zip(wanted, found, strict=True)]))

        canvases = painted_from.canvases(build, build.defect_class)
        seeds = image_seeds(build.seed, build.defect_class, "twin", len(canvases.drivers))
        paint = partial(
            generator.painting.paint, *painted_from.generator(build), canvases, seeds, synthesis=build.settings.synthesis,
            token=build.settings.concept.token, from_noise=True,
        )  # fmt: skip
        with_mask, without = (list(paint(defects=defects)) for defects in (True, False))
        report = Agreement(
            from_noise=twin_figures(twin_table(with_mask, without, list(canvases.masks))),
            iou_synthetic=iou(painted, masks),
            iou_real=iou([test_images[i] for i in own], truth) if own else float("nan"),
            n_synthetic=len(painted),
            n_real=len(own),
        )
        build.keep(report)
        build.metadata |= {"IoU, synthetic": report.iou_synthetic, "IoU, real": report.iou_real}
        build.metadata |= {f"from noise: {name}": value for name, value in asdict(report.from_noise).items()}
        shown = with_mask[:6], without[:6], list(canvases.masks[:6])
        build.picture("twins", twins_sheet(*shown, build.defect_class, build.colours))

    return make


# --- Variety -------------------------------------------------------------------------------------------------------


def variety_report(painted_from: PaintedFrom) -> Stage:
    """The stage that measures how different images of one driver are."""

    @stage(
        name="variety_report",
        parents=painted_from.parents,
        settings=(*PAINTED, *COMPARED),
        images=Subset(HELD_OUT, "own class", "shown"),
        group="evaluation",
        kinds={"torch", "diffusers"},
        partitioned=True,
        gpu=True,
    )
    def make(build: Build) -> None:
        """How different ten images of one driver are, for ten drivers (paper A, Table 3): L2, mutual information, KID, FID."""
        conditions = min(VARIED, len(read_bank(build.read(painted_from.bank).path)))
        canvases = painted_from.canvases(
            build, build.defect_class, [k for k in range(conditions) for _ in range(VARIED)]
        )
        seeds = image_seeds(build.seed, build.defect_class, "variety", len(canvases.drivers))
        (backbone, hypernetwork), extractor = painted_from.generator(build), extractor_of(build.settings)
        real = real_features(
            remembering(extractor, build.cache("features")), build.dataset, build.defect_class, HELD_OUT, build.settings.drivers,
            build.seed,
        )  # fmt: skip
        synthesis, token = build.settings.synthesis, build.settings.concept.token
        paint = partial(
            generator.painting.paint, backbone, hypernetwork, canvases, seeds, synthesis=synthesis, token=token
        )
        made = {
            "all from noise": paint(from_noise=True),
            "as shipped": paint(scale=partial(painted_from.scale, build)),
            "inpainting": generator.painting.inpainted(backbone, canvases, seeds, synthesis=synthesis, token=token),
        }
        rows = []
        for name, images in made.items():
            figures = variety(images.reshape(conditions, VARIED, *images.shape[1:]), canvases.masks[::VARIED])
            features = extractor.features(images)
            kid, fid = kernel_distance(real, features), frechet_distance(real, features)
            rows.append({"images": name, **asdict(figures), "kid": kid, "fid": fid, "n": len(images)})
        build.keep(rows)
        build.metadata["variety"] = rows
        shown = [images[VARIED * k + j] for images in made.values() for k in range(2) for j in range(VARIED)]
        captions = [name for name in made for _ in range(2 * VARIED)]
        build.picture("one driver, ten seeds", contact_sheet(shown, captions, columns=VARIED))

    return make
