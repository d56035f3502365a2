"""Is the concept worth learning before the condition? Paper A, Table 4, #1 against #2."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from defect_pipeline import diffusion
from defect_pipeline.assets.concept import load_untouched
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.hypernetwork import condition_prompt, learn_condition
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.assets.synthesis import PAINTED_FROM, image_seed, load_generator, paint, read_canvases
from defect_pipeline.evaluation.distances import frechet_distance, kernel_distance
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

ORDERS = ("condition only", "concept, then condition")
REPORT = "order.json"
SHOWN = 4  # images of each class and order


@dataclass(frozen=True)
class Judged:
    """KID and FID to held-out images of a class's images, all painted from noise, as the paper's are."""

    order: str
    defect_class: str
    kid: float
    fid: float
    n: int


@stage(
    parents=PAINTED_FROM,
    settings=lambda pipeline: (
        pipeline.settings.concept, pipeline.settings.hypernetwork, pipeline.settings.synthesis, pipeline.settings.precision,
        pipeline.settings.drivers.zoom, pipeline.settings.extractor, pipeline.settings.extractor_weights,
    ),
    images=Subset(HELD_OUT, "defects"),
    group="evaluation",
    kinds={"torch", "diffusers"},
    gpu=True,
)  # fmt: skip
def order_report(build: Build) -> None:
    """Images all from noise by the run's own generator, and by a condition learned on the untouched backbone.

    The condition alone takes as many steps as concept and condition together (paper A, Table 4).
    """
    backbone = load_untouched(build)
    crops = read_training({k: build.parent("topological_drivers", k).path for k in build.classes()})
    prompts = [condition_prompt(build, k) for k in crops.classes]
    examples = diffusion.adapters.Examples.of(backbone, crops.images, crops.drivers, crops.masks, prompts)
    hypernetwork = backbone.new_hypernetwork(build.settings.hypernetwork.init, build.pipeline.seed)
    steps = build.settings.concept.steps + build.settings.hypernetwork.steps
    learn_condition(build, backbone, hypernetwork, examples, steps)

    extractor, judged, shown = extractor_of(build), [], []
    for order, generator in zip(ORDERS, ((backbone, hypernetwork), load_generator(build)), strict=True):
        for k in build.classes():
            canvases = read_canvases(build, k)
            seeds = [image_seed(build.pipeline.seed, k, f"order/{n}") for n in range(len(canvases.drivers))]
            images = paint(build, *generator, canvases, seeds, from_noise=True)
            real, features = real_features(build, extractor, k, HELD_OUT), extractor.features(images)
            kid, fid = kernel_distance(real, features), frechet_distance(real, features)
            judged.append(Judged(order, k, kid, fid, len(images)))
            shown += [(image, f"{order}: {k}") for image in images[:SHOWN]]
            build.progress(len(judged), len(ORDERS) * len(build.classes()))
    (build.path / REPORT).write_text(json.dumps([asdict(part) for part in judged]))
    build.metadata["order"] = [asdict(part) for part in judged]
    build.picture("images", contact_sheet(*map(list, zip(*shown, strict=True)), columns=SHOWN * len(build.classes())))


def read_order(directory: Path) -> list[Judged]:
    """What an `order_report` artifact holds."""
    return [Judged(**part) for part in json.loads((directory / REPORT).read_text())]
