"""Is the concept worth learning before the condition? Paper A, Table 4, #1 against #2."""

from dataclasses import asdict, dataclass, replace

from defect_pipeline import diffusion, generator
from defect_pipeline.assets.concept import LOADED, training_of
from defect_pipeline.assets.drivers import read_training
from defect_pipeline.assets.references import HELD_OUT, extractor_of, real_features, remembering
from defect_pipeline.assets.stage import Build, Stage, stage
from defect_pipeline.assets.synthesis import PaintedFrom
from defect_pipeline.evaluation.distances import frechet_distance, kernel_distance
from defect_pipeline.generator.canvases import image_seeds
from defect_pipeline.generator.loading import load_untouched
from defect_pipeline.generator.prompts import condition_prompt
from defect_pipeline.imaging.sheets import contact_sheet
from defect_pipeline.imaging.subsets import Subset

ORDERS = ("condition only", "concept, then condition")
EACH = 4  # images of each class and order


@dataclass(frozen=True)
class Judged:
    """KID and FID to held-out images of a class's images, all painted from noise, as the paper's are."""

    order: str
    defect_class: str
    kid: float
    fid: float
    n: int


def order_report(painted_from: PaintedFrom) -> Stage:
    """The stage that holds the run's generator against a condition learned without the concept."""

    @stage(
        name="order_report",
        parents=painted_from.parents,
        settings=(
            "concept",
            "hypernetwork",
            "optimizer",
            "synthesis",
            "drivers.size",
            "drivers.zoom",
            "extractor",
            "extractor_weights",
            *LOADED,
        ),
        images=Subset(HELD_OUT, "defects"),
        group="evaluation",
        kinds={"torch", "diffusers"},
        gpu=True,
    )
    def make(build: Build) -> None:
        """Images all from noise by the run's own generator, and by a condition learned on the untouched backbone.

        The condition alone takes as many steps as concept and condition together (paper A, Table 4).
        """
        settings, seed, token = build.settings, build.seed, build.settings.concept.token
        backbone = load_untouched(settings)
        crops = read_training({k: build.read(painted_from.drivers, k).path for k in build.classes})
        prompts = [condition_prompt(token, k) for k in crops.classes]
        examples = diffusion.adapters.Examples.of(backbone, crops.images, crops.drivers, crops.masks, prompts)
        hypernetwork = backbone.new_hypernetwork(settings.hypernetwork.init, seed)
        longer = replace(settings.hypernetwork, steps=settings.concept.steps + settings.hypernetwork.steps)
        generator.learning.learn_condition(backbone, hypernetwork, examples, longer, **training_of(build))

        extractor, judged, shown = extractor_of(settings), [], []
        known = remembering(extractor, build.cache("features"))
        for order, networks in zip(ORDERS, ((backbone, hypernetwork), painted_from.generator(build)), strict=True):
            for k in build.classes:
                canvases = painted_from.canvases(build, k)
                images = generator.painting.paint(
                    *networks, canvases, image_seeds(seed, k, "order", len(canvases.drivers)),
                    synthesis=settings.synthesis, token=token, from_noise=True,
                )  # fmt: skip
                real = real_features(known, build.dataset, k, HELD_OUT, settings.drivers, seed)
                features = extractor.features(images)
                kid, fid = kernel_distance(real, features), frechet_distance(real, features)
                judged.append(Judged(order, k, kid, fid, len(images)))
                shown += [(image, f"{order}: {k}") for image in images[:EACH]]
                build.progress(len(judged), len(ORDERS) * len(build.classes))
        build.keep(judged)
        build.metadata["order"] = [asdict(part) for part in judged]
        build.picture("images", contact_sheet(*map(list, zip(*shown, strict=True)), columns=EACH * len(build.classes)))

    return make
