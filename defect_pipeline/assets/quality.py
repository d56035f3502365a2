"""What the generator is worth, beyond the gate: made by `defect-pipeline quality`, not by every run.

The autoencoder alone; KID at each step of the method, with the cheap baseline beside it; whether defects stand in
their masks.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel

from defect_pipeline.assets.concept import backbone_of, concept_prompt, load_untouched, prior_prompt, sampled
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.fid import HELD_OUT, extractor_of, real_features
from defect_pipeline.assets.segmentation import annotated_windows, load_segmentor
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import IMAGES, Canvases, image_seed, load_generator, paint, read_canvases
from defect_pipeline.diffusion.backbone import Backbone
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.distances import Comparison, compare
from defect_pipeline.evaluation.faithfulness import TwinFigures, change, twin_figures
from defect_pipeline.evaluation.reconstruction import Reconstruction, reconstruction
from defect_pipeline.evaluation.segmentation import mask_iou
from defect_pipeline.imaging.copy_paste import paste_defect
from defect_pipeline.imaging.drivers import class_colours
from defect_pipeline.imaging.geometry import square_crop
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.recognition.segmentor import predict

REPORT = "report.json"
SCORE = 0.5  # of a detection that counts


# --- The autoencoder -----------------------------------------------------------------------------------------------


@stage(
    parents=("inspection_images",),
    settings=lambda pipeline: (pipeline.settings.drivers.size, backbone_of(pipeline)),
    group="quality",
    kinds={"torch", "diffusers"},
    gpu=True,
)
def autoencoder_report(build: Build) -> None:
    """What the backbone's autoencoder keeps of held-out images, cut out at their own resolution: PSNR, gradient energy."""
    backbone = load_untouched(build)
    images, masks = _native_crops(build)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = list(backbone.decode(backbone.encode(pixels)).numpy())
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
    for image_id in dataset.subset("test"):
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


@stage(
    parents=(
        "inspection_images", "defect_free_pool", "mask_bank", "topological_drivers", "concept_weights",
        "hypernetwork_weights", "sadf_images",
    ),
    settings=lambda pipeline: (
        pipeline.settings.synthesis, pipeline.settings.precision, pipeline.settings.extractor,
        pipeline.settings.extractor_weights, pipeline.settings.drivers.zoom, backbone_of(pipeline),
    ),
    group="quality",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def kid_ladder(build: Build) -> None:
    """KID to held-out images of the un-adapted backbone, of the concept, of concept and condition, and of copy-paste."""
    canvases = read_canvases(build, build.defect_class)
    seeds = [image_seed(build.pipeline.seed, build.defect_class, f"ladder/{k}") for k in range(len(canvases.drivers))]
    backbone, hypernetwork = load_generator(build)
    n, size = len(seeds), build.settings.drivers.size
    rungs = {
        "un-adapted backbone": sampled(load_untouched(build), [prior_prompt(build)] * n, seeds, build, size),
        "concept": sampled(backbone, [concept_prompt(build)] * n, seeds, build, size),
        "concept + condition": _painted(build, backbone, hypernetwork, canvases, seeds, from_noise=True),
        "the same, as shipped": [
            read_image(file) for file in sorted((build.parent("sadf_images").path / IMAGES).glob("*.png"))
        ],
        "copy-paste": _copy_paste(build, canvases),
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


def _painted(
    build: Build,
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    canvases: Canvases,
    seeds: Sequence[int],
    *,
    from_noise: bool,
    defects: bool = True,
) -> list[np.ndarray]:
    """Images (S, S, 3) uint8, see `paint`."""
    latents = paint(build, backbone, hypernetwork, canvases, seeds, from_noise=from_noise, defects=defects)
    return list(backbone.decode(latents).numpy())


def _copy_paste(build: Build, canvases: Canvases) -> list[np.ndarray]:
    """Defects of train images, cut out and blended into the canvases' backgrounds."""
    crops = read_training({build.defect_class: build.parent("topological_drivers").path})
    order = np.random.default_rng(build.pipeline.seed).permutation(len(crops.classes))
    chosen = [order[k % len(order)] for k in range(len(canvases.backgrounds))]
    return [
        paste_defect(background, crops.images[k].numpy(), crops.masks[k].numpy())
        for background, k in zip(canvases.backgrounds, chosen, strict=True)
    ]


# --- Faithfulness --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faithfulness:
    """Of a class: twins as they are shipped and all from noise, and what a segmentor trained on real images sees.

    The IoUs are means over images, of the class's detections together against the mask.
    """

    shipped: TwinFigures
    from_noise: TwinFigures
    iou_synthetic: float
    iou_real: float  # of the same segmentor, on real test images
    n_real: int

    @classmethod
    def read(cls, directory: Path) -> "Faithfulness":
        found = json.loads((directory / REPORT).read_text())
        return cls(**found | {name: TwinFigures(**found[name]) for name in ("shipped", "from_noise")})


@stage(
    parents=(
        "inspection_images", "defect_free_pool", "mask_bank", "topological_drivers", "concept_weights",
        "hypernetwork_weights", "segmentor",
    ),
    settings=lambda pipeline: (pipeline.settings.synthesis, pipeline.settings.precision, pipeline.settings.segmentor),
    group="quality",
    kinds={"torch", "diffusers"},
    partitioned=True,
    gpu=True,
)  # fmt: skip
def faithfulness_report(build: Build) -> None:
    """Whether defects stand in their masks: change against twins without the mask, and a real-trained segmentor's view."""
    canvases = read_canvases(build, build.defect_class)
    seeds = [image_seed(build.pipeline.seed, build.defect_class, f"twin/{k}") for k in range(len(canvases.drivers))]
    backbone, hypernetwork = load_generator(build)

    def painted(from_noise: bool, defects: bool) -> list[np.ndarray]:
        return _painted(build, backbone, hypernetwork, canvases, seeds, from_noise=from_noise, defects=defects)

    images, twins = painted(False, True), painted(False, False)
    masks = list(canvases.masks)
    category = build.classes().index(build.defect_class)
    model = load_segmentor(build, "real")
    test_images, test_truth = annotated_windows(build.dataset(), "test", build.settings.drivers.size, defective=True)
    own = [i for i, instances in enumerate(test_truth) if any(k == category for k, _ in instances)]
    truth = [np.any([m for k, m in test_truth[i] if k == category], axis=0) for i in own]

    def iou(seen: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
        found = [
            np.any([*p.masks[(p.labels == category) & (p.scores >= SCORE)], np.zeros_like(mask)], axis=0)
            for p, mask in zip(predict(model, seen), wanted, strict=True)
        ]
        return float(np.mean([mask_iou(mask, f) for mask, f in zip(wanted, found, strict=True)]))

    report = Faithfulness(
        shipped=twin_figures(images, twins, masks),
        from_noise=twin_figures(painted(True, True), painted(True, False), masks),
        iou_synthetic=iou(images, masks),
        iou_real=iou([test_images[i] for i in own], truth) if own else float("nan"),
        n_real=len(own),
    )
    (build.path / REPORT).write_text(json.dumps(asdict(report)))
    build.metadata["twins"] = [
        {"painted": name, **asdict(part)}
        for name, part in (("as shipped", report.shipped), ("all from noise", report.from_noise))
    ]
    build.metadata |= {"IoU, synthetic": report.iou_synthetic, "IoU, real": report.iou_real}
    _show_twins(build, images, twins, masks)


def _show_twins(
    build: Build, images: Sequence[np.ndarray], twins: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> None:
    """Six images with their masks, their twins, and what changed between the two."""
    colours = class_colours(build.classes())
    rows: dict[str, list[np.ndarray]] = {"asked for": [], "with the mask": [], "its twin": [], "change x 2": []}
    for image, twin, mask in list(zip(images, twins, masks, strict=True))[:6]:
        changed = np.clip(2 * change(image, twin), 0, 255).astype(np.uint8)
        shown = overlay(twin, [(build.defect_class, mask)], colours), image, twin, np.dstack([changed] * 3)
        for row, picture in zip(rows.values(), shown, strict=True):
            row.append(picture)
    captions = [name for name, row in rows.items() for _ in row]
    build.picture(
        "twins", contact_sheet([x for row in rows.values() for x in row], captions, columns=len(rows["its twin"]))
    )
