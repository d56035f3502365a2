"""What the generator is worth, beyond the gate: made by `defect-pipeline quality`, not by every run.

The autoencoder alone; KID at each step of the method, with the cheap baseline beside it; whether defects stand in
their masks.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from defect_pipeline import recognition
from defect_pipeline.assets.baselines import copy_pasted, inpainted
from defect_pipeline.assets.concept import backbone_of, concept_prompt, load_untouched, prior_prompt, sampled
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.faithfulness import twins_sheet
from defect_pipeline.assets.masks import read_bank
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features
from defect_pipeline.assets.segmentation import annotated_windows, load_segmentor
from defect_pipeline.assets.stage import Build, Pipeline, stage
from defect_pipeline.assets.synthesis import (
    IMAGES,
    PAINTED_FROM,
    image_seed,
    load_generator,
    paint,
    read_canvases,
    read_set,
)
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import Comparison, compare, frechet_distance, kernel_distance
from defect_pipeline.evaluation.faithfulness import TwinFigures, twin_figures, twin_table
from defect_pipeline.evaluation.reconstruction import Reconstruction, reconstruction
from defect_pipeline.evaluation.segmentation import mask_iou
from defect_pipeline.evaluation.variety import variety
from defect_pipeline.imaging.geometry import square_crop
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

REPORT = "report.json"
SCORE = 0.5  # of a detection that counts
VARIED = 10  # drivers, and images of each


# --- The autoencoder -----------------------------------------------------------------------------------------------


@stage(
    parents=("inspection_images",),
    settings=lambda pipeline: (pipeline.settings.drivers.size, backbone_of(pipeline)),
    images=Subset(("test",)),
    group="evaluation",
    kinds={"torch", "diffusers"},
    gpu=True,
)
def autoencoder_report(build: Build) -> None:
    """What the backbone's autoencoder keeps of held-out images, cut out at their own resolution: PSNR, gradient energy."""
    backbone = load_untouched(build)
    images, masks = _native_crops(build)
    decoded = list(backbone.decode(backbone.encode_pixels(np.stack(images))).numpy())
    figures = reconstruction(images, decoded, masks)
    (build.path / REPORT).write_text(json.dumps(asdict(figures)))
    build.metadata |= asdict(figures)
    errors = [
        np.clip(8 * np.abs(x.astype(int) - y), 0, 255).astype(np.uint8) for x, y in zip(images, decoded, strict=True)
    ]
    shown = slice(None, None, max(1, len(images) // 8))
    rows = [images[shown][:8], decoded[shown][:8], errors[shown][:8]]
    captions = [name for name, row in zip(("image", "decoded", "error x 8"), rows, strict=True) for _ in row]
    build.picture("crops", contact_sheet([x for row in rows for x in row], captions, columns=len(rows[0]), cell=192))


def read_reconstruction(directory: Path) -> Reconstruction:
    """What an `autoencoder_report` artifact says."""
    return Reconstruction(**json.loads((directory / REPORT).read_text()))


def _native_crops(build: Build) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A crop of each test image that is large enough, around its defect, and its mask: nothing is resized."""
    dataset, size = build.dataset(), build.settings.drivers.size
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


def _painted_and_compared(pipeline: Pipeline) -> tuple:
    """What images depend on that are painted anew and compared with real ones, beside their parents."""
    settings = pipeline.settings
    return (
        settings.synthesis, settings.precision, settings.extractor, settings.extractor_weights, settings.drivers.zoom,
        backbone_of(pipeline),
    )  # fmt: skip


@stage(
    parents=(*PAINTED_FROM, "sadf_images"),
    settings=_painted_and_compared,
    images=Subset(HELD_OUT, "own class", "shown"),
    group="evaluation",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def kid_ladder(build: Build) -> None:
    """KID to held-out images of the un-adapted backbone, of the concept, of concept and condition, and of baselines."""
    canvases = read_canvases(build, build.defect_class)
    seeds = [image_seed(build.pipeline.seed, build.defect_class, f"ladder/{k}") for k in range(len(canvases.drivers))]
    backbone, hypernetwork = load_generator(build)
    n, size = len(seeds), build.settings.drivers.size
    crops = read_training({build.defect_class: build.parent("topological_drivers").path})
    rungs = {
        "un-adapted backbone": sampled(load_untouched(build), [prior_prompt(build)] * n, seeds, build, size),
        "concept": sampled(backbone, [concept_prompt(build)] * n, seeds, build, size),
        "concept + condition": list(paint(build, backbone, hypernetwork, canvases, seeds, from_noise=True)),
        "the same, as shipped": [
            read_image(file) for file in sorted((build.parent("sadf_images").path / IMAGES).glob("*.png"))
        ],
        "inpainting": list(inpainted(build, canvases, seeds)),
        "copy-paste": copy_pasted(crops, list(canvases.backgrounds), build.pipeline.seed)[0],
    }
    extractor = extractor_of(build)
    real = real_features(build, extractor, build.defect_class, HELD_OUT)
    report = {
        name: compare(real, extractor.features(images), extractor=extractor.name, seed=build.pipeline.seed)
        for name, images in rungs.items()
    }
    (build.path / REPORT).write_text(json.dumps({name: asdict(part) for name, part in report.items()}))
    build.metadata["ladder"] = [{"images": name, **asdict(part)} for name, part in report.items()]
    columns = min(6, *map(len, rungs.values()))
    captions = [name for name in rungs for _ in range(columns)]
    shown = [image for images in rungs.values() for image in images[:columns]]
    build.picture("ladder", contact_sheet(shown, captions, columns=columns))
    build.picture("from noise", contact_sheet(rungs["concept + condition"][:36], columns=6))


def read_ladder(directory: Path) -> dict[str, Comparison]:
    """What a `kid_ladder` artifact says of each set of images."""
    return {name: Comparison(**part) for name, part in json.loads((directory / REPORT).read_text()).items()}


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

    @classmethod
    def read(cls, directory: Path) -> "Agreement":
        found = json.loads((directory / REPORT).read_text())
        return cls(**found | {"from_noise": TwinFigures(**found["from_noise"])})


@stage(
    parents=(*PAINTED_FROM, "sadf_images", "segmentor"),
    settings=lambda pipeline: (pipeline.settings.synthesis, pipeline.settings.precision, pipeline.settings.segmentor),
    images=Subset(("test",), "own class"),
    group="evaluation",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def agreement_report(build: Build) -> None:
    """IoU of a real-trained segmentor against the masks asked for, beside real images; twins painted all from noise."""
    images, masks = read_set(build.parent("sadf_images").path, build.parent("mask_bank").path)
    category = build.classes().index(build.defect_class)
    test_images, test_truth = annotated_windows(build.dataset(), "test", build.settings.drivers.size, defective=True)
    own = [i for i, instances in enumerate(test_truth) if any(k == category for k, _ in instances)]
    truth = [np.any([m for k, m in test_truth[i] if k == category], axis=0) for i in own]
    model = load_segmentor(build, "real")

    def iou(seen: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
        found = [
            np.any([*p.masks[(p.labels == category) & (p.scores >= SCORE)], np.zeros_like(mask)], axis=0)
            for p, mask in zip(recognition.segmentor.predict(model, seen), wanted, strict=True)
        ]
        return float(np.mean([mask_iou(mask, f) for mask, f in zip(wanted, found, strict=True)]))

    canvases = read_canvases(build, build.defect_class)
    seeds = [image_seed(build.pipeline.seed, build.defect_class, f"twin/{k}") for k in range(len(canvases.drivers))]
    generator = load_generator(build)
    with_mask, without = (
        list(paint(build, *generator, canvases, seeds, from_noise=True, defects=defects)) for defects in (True, False)
    )
    report = Agreement(
        from_noise=twin_figures(twin_table(with_mask, without, list(canvases.masks))),
        iou_synthetic=iou(images, masks),
        iou_real=iou([test_images[i] for i in own], truth) if own else float("nan"),
        n_synthetic=len(images),
        n_real=len(own),
    )
    (build.path / REPORT).write_text(json.dumps(asdict(report)))
    build.metadata |= {"IoU, synthetic": report.iou_synthetic, "IoU, real": report.iou_real}
    build.metadata |= {f"from noise: {name}": value for name, value in asdict(report.from_noise).items()}
    build.picture("twins", twins_sheet(build, with_mask[:6], without[:6], list(canvases.masks[:6])))


# --- Variety -------------------------------------------------------------------------------------------------------


@stage(
    parents=PAINTED_FROM,
    settings=_painted_and_compared,
    images=Subset(HELD_OUT, "own class", "shown"),
    group="evaluation",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def variety_report(build: Build) -> None:
    """How different ten images of one driver are, for ten drivers (paper A, Table 3): L2, mutual information, KID, FID."""
    conditions = min(VARIED, len(read_bank(build.parent("mask_bank").path)))
    canvases = read_canvases(build, build.defect_class, [k for k in range(conditions) for _ in range(VARIED)])
    seeds = [image_seed(build.pipeline.seed, build.defect_class, f"variety/{k}") for k in range(len(canvases.drivers))]
    generator, extractor = load_generator(build), extractor_of(build)
    real = real_features(build, extractor, build.defect_class, HELD_OUT)
    made = {
        "all from noise": paint(build, *generator, canvases, seeds, from_noise=True),
        "as shipped": paint(build, *generator, canvases, seeds),
        "inpainting": inpainted(build, canvases, seeds),
    }
    rows = []
    for name, images in made.items():
        figures = variety(images.reshape(conditions, VARIED, *images.shape[1:]), canvases.masks[::VARIED])
        features = extractor.features(images)
        kid, fid = kernel_distance(real, features), frechet_distance(real, features)
        rows.append({"images": name, **asdict(figures), "kid": kid, "fid": fid, "n": len(images)})
    (build.path / REPORT).write_text(json.dumps(rows))
    build.metadata["variety"] = rows
    shown = [images[VARIED * k + j] for images in made.values() for k in range(2) for j in range(VARIED)]
    captions = [name for name in made for _ in range(2 * VARIED)]
    build.picture("one driver, ten seeds", contact_sheet(shown, captions, columns=VARIED))


def read_variety(directory: Path) -> list[dict]:
    """What a `variety_report` artifact says: a row for each way of painting."""
    return json.loads((directory / REPORT).read_text())
