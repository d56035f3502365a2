"""Settings as frozen typed objects: `embedded` runs on two CPU cores, `sd15` on a GPU with the papers' values.

A stage's digest is made from its part of the profile, so changing one number remakes what depends on it, nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from defect_pipeline.errors import PipelineError

EMBEDDED_BACKBONE = Path(__file__).resolve().with_name("backbone")


@dataclass(frozen=True)
class Splits:
    """Fractions of groups in train, val and test."""

    train: float = 0.6
    val: float = 0.1
    test: float = 0.3


@dataclass(frozen=True)
class Pool:
    """Canvases for synthetic defects (paper A §3.4)."""

    variants: int = 10  # offline augmentations of each defect-free image
    images: int = 40  # defect-free images used at most


@dataclass(frozen=True)
class Masks:
    """Where synthetic defects go (paper A §3.4)."""

    per_class: int = 40  # synthesis masks, hence drivers, of each class
    strategy: Literal["perturbed", "shape model"] = "perturbed"  # (i) annotated ones, changed a little; (iii) new ones
    # annotated ones closed in on, as a generator learns them; or as a segmentor's windows show them: small, and cut
    framing: Literal["crops", "windows"] = "crops"
    sizes: tuple[float, float] = (1.0, 1.0)  # times as long and wide as that, of (i)
    placement: Literal["near", "learned"] = "near"  # where annotated, moved by up to a quarter; or where defects occur

    def __post_init__(self) -> None:
        if not 0 < self.sizes[0] <= self.sizes[1]:
            raise PipelineError(f"The sizes of masks are {self.sizes}; name the smallest and the largest, above 0.")


@dataclass(frozen=True)
class Drivers:
    """The topological driver (paper A §3.3) and the crops it is made from."""

    size: int = 128  # px, a multiple of 8
    downscale: int = 2
    block: int = 31  # downscaled px, neighbourhood of the adaptive threshold
    offset: float = 10.0  # grey levels below the local mean that count as structure
    crops: int = 8  # training crops of each annotated image
    zoom: float = 2.0  # at most; crops close in on small defects
    images: int = 500  # annotated images of a class used at most


@dataclass(frozen=True)
class Concept:
    """DreamBooth with prior preservation (paper A §3.1)."""

    steps: int = 80
    batch: int = 8  # images of the component a step
    prior_batch: int = 2  # images of its class, as the untouched model paints it
    learning_rate: float = 4e-4
    prior_weight: float = 0.5
    prior_images: int = 16
    window: int = 64  # px; most steps see as many pixels in windows around defects; 0: whole crops only, as the paper
    token: str = "sks"
    class_noun: str = "component"


@dataclass(frozen=True)
class Hypernetwork:
    """The condition (paper A §3.2). `init` "zero" is the paper's; "backbone" starts from the backbone's own prior."""

    init: str = "backbone"
    steps: int = 130
    batch: int = 8
    learning_rate: float = 4e-4
    window: int = 64  # as the concept's
    mask_weight: float = 4.0
    text_dropout: float = 0.1


@dataclass(frozen=True)
class Synthesis:
    images_per_driver: int = 1  # the paper allows up to 15
    steps: int = 8
    guidance: float = 1.0  # away from the empty prompt; 1 is none
    defect_guidance: float = 1.75  # away from the same driver without its defect; 1 is none
    strength: float = 0.05  # 1: all from pure noise, as the paper; less: outside the masks, the pool image so noised
    fade: float = 6.0  # px around the masks over which the strength falls from 1
    transfer: bool = True  # only what a defect changes against its twin is kept, on the defect-free image; False: paper
    match_contrast: bool = True  # with transfer: toned down until it stands out as training defects do
    visible: float = 8.0  # grey levels of change under the mask, at which toning down ends; as the filter asks
    batch: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise PipelineError(f"The strength of synthesis is {self.strength}; it lies above 0 and at most at 1.")
        if self.guidance != 1 and self.defect_guidance != 1:
            raise PipelineError(
                f"guidance is {self.guidance} and defect_guidance {self.defect_guidance}; set one of them to 1."
            )
        if not 1 <= self.images_per_driver <= 15:
            raise PipelineError(
                f"images_per_driver is {self.images_per_driver}; the paper allows 1 to 15 for each driver."
            )


@dataclass(frozen=True)
class Filter:
    """What a synthetic image must show to be accepted."""

    visible: float = 8.0  # grey levels, mean change under the mask against its twin, at least
    ratio: float = 1.2  # change under the mask / within 8 px around it, at least
    on_component: float = 0.9  # share of the mask, at least
    refine: bool = False  # labels shrink or grow to the visible change


@dataclass(frozen=True)
class Thresholds:
    """The gate on each class: the largest KID and FID it may have to real images (extractor named in the report), and
    what the checks of faithfulness, copying and filter ask of it. A thresholds file overrides them."""

    kid: float
    fid: float
    in_mask: float = 3.0  # change under the mask / elsewhere, at least; two thirds of it where masks are below 1 %
    copies: float = 0.05  # share of the defects, at most
    accepted: float = 0.5  # share of the images, at least
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)  # class -> those above that differ for it

    def of(self, defect_class: str) -> "Thresholds":
        """Those of a class."""
        return replace(self, **self.per_class.get(defect_class, {}), per_class={})

    def over_classes(self, name: str) -> tuple[float, dict[str, float]] | float:
        """One of them with those of the classes that differ, if any: what an artifact depends on that looks at it."""
        own = {k: found[name] for k, found in self.per_class.items() if name in found}
        return (getattr(self, name), own) if own else getattr(self, name)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises PipelineError for thresholds of a class that is none of ``classes``: a slip would loosen a gate."""
        for name in self.per_class:
            if name not in classes:
                raise PipelineError(
                    f"There are thresholds for a class {name!r}, but the images show {', '.join(classes)}: correct its "
                    "name in the thresholds file."
                )


TABLE_I = {  # paper B: strength s and guidance of each class of NEU, found with Stable Diffusion 1.5
    "crazing": (0.2, 2.0), "inclusion": (0.9, 9.0), "patches": (0.4, 6.0),
    "pitted_surface": (0.5, 3.0), "rolled-in_scale": (0.1, 8.0), "scratches": (0.5, 7.0),
}  # fmt: skip


@dataclass(frozen=True)
class Tuning:
    """Which strengths and guidances of image-oriented generation are tried, by successive halving."""

    strengths: tuple[float, ...] = (0.3, 0.5, 0.7)
    guidances: tuple[float, ...] = (1.0, 3.0)
    images: int = 8  # of each candidate in the first round; twice as many in the next

    def __post_init__(self) -> None:
        if len(self.strengths) * len(self.guidances) < 2 or self.images < 2:
            raise PipelineError("Tuning needs two candidates, a strength and a guidance each, and two images of each.")


@dataclass(frozen=True)
class StableSDG:
    """The second system (paper B): a token and adapters for each class, images from noised real ones."""

    prompt: str = "an image of a <unknown>"
    like: str = "surface with a defect"  # where the token begins
    token_steps: int = 60
    token_learning_rate: float = 5e-3
    steps: int = 200  # of the adapters
    learning_rate: float = 2e-3
    rank: int = 1
    batch: int = 4
    images: int = 40  # of each class
    solver_steps: int = 8
    tuning: Tuning | None = Tuning()  # None: as named here
    strength: float = 0.5  # s: T' = s T; of classes that `per_class` does not name
    guidance: float = 2.0
    per_class: dict[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, defect_class: str) -> tuple[float, float]:
        """(strength, guidance) named for a class."""
        return self.per_class.get(defect_class, (self.strength, self.guidance))


@dataclass(frozen=True)
class Baselines:
    """The generators that Table V of paper B trains from scratch for each class; the others are as named elsewhere."""

    gan_size: int = 128  # px; what it paints is brought to the profile's size
    gan_width: int = 16  # channels next to the image, twice as many at each halving
    gan_steps: int = 1000
    gan_batch: int = 16
    gan_learning_rate: float = 2e-4
    ddim_widths: tuple[int, ...] = (32, 64, 128)  # channels of the U-Net's levels
    ddim_steps: int = 600
    ddim_batch: int = 8
    ddim_learning_rate: float = 1e-3
    ddim_solver_steps: int = 50


@dataclass(frozen=True)
class Segmentor:
    """Every regime takes the same number of optimizer steps. "pixels" classifies pixels, the others are Mask R-CNN."""

    backbone: Literal["efficientnet-lite0-pixels", "efficientnet-lite0", "resnet50-coco"] = "efficientnet-lite0-pixels"
    weights: str = ""  # directory of COCO weights for "resnet50-coco"
    steps: int = 90  # at least
    passes: int = 9  # over the real images, at least
    batch: int = 8
    learning_rate: float = 4e-3
    trials: int = 4  # on real val images in the second half of the last stage; the best weights are kept. 0: the last

    def steps_for(self, real_images: int) -> int:
        """Optimizer steps of every regime."""
        return max(self.steps, math.ceil(self.passes * real_images / self.batch))


@dataclass(frozen=True)
class Downstream:
    """The tables that compare what a segmentor gains from each kind of data; the rest is as `Segmentor` says."""

    steps: int = 200  # of every arm, at least


@dataclass(frozen=True)
class Recognition:
    """Classifiers (paper B §4); each is trained with and without the synthetic images, the same number of steps."""

    models: tuple[str, ...] = ("efficientnet-lite0", "squeezenet")
    steps: int = 150
    batch: int = 16
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class Profile:
    name: str
    backbone: str  # directory in diffusers layout
    extractor: str
    thresholds: Thresholds
    extractor_weights: str = ""  # directory of the "inception" weights file
    device: str = "cpu"
    precision: str = "float32"  # of the generator's arithmetic; "bfloat16" on a GPU, with float32 master weights
    compiled: bool = False  # the generator, by `torch.compile`: minutes at first, then faster; needs a C++ compiler
    splits: Splits = Splits()
    pool: Pool = Pool()
    masks: Masks = Masks()
    drivers: Drivers = Drivers()
    concept: Concept = Concept()
    hypernetwork: Hypernetwork = Hypernetwork()
    synthesis: Synthesis = Synthesis()
    filter: Filter = Filter()
    segmentor: Segmentor = Segmentor()
    downstream: Downstream = Downstream()
    stablesdg: StableSDG = StableSDG()
    baselines: Baselines = Baselines()
    recognition: Recognition = Recognition()


EMBEDDED = Profile(
    name="embedded",
    backbone=str(EMBEDDED_BACKBONE),
    extractor="efficientnet-lite0",
    thresholds=Thresholds(kid=0.7, fid=350.0),  # what this backbone reaches, with room; a good one is far below
)

SD15 = Profile(
    name="sd15",
    backbone="models/stable-diffusion-v1-5",
    extractor="inception",
    extractor_weights="models/inception",
    device="cuda",
    precision="bfloat16",
    pool=Pool(images=10_000),
    thresholds=Thresholds(kid=0.15, fid=200.0),
    masks=Masks(per_class=200),
    drivers=Drivers(size=512, downscale=8, crops=10),
    concept=Concept(
        steps=1000, batch=4, prior_batch=4, learning_rate=2e-6, prior_weight=1.0, prior_images=200, window=0
    ),
    hypernetwork=Hypernetwork(
        init="zero", steps=7000, batch=4, learning_rate=1e-5, window=0, mask_weight=1.0, text_dropout=0.5
    ),
    synthesis=Synthesis(
        images_per_driver=15, strength=1.0, transfer=False, steps=20, guidance=7.5, defect_guidance=1.0, batch=8
    ),
    segmentor=Segmentor(backbone="resnet50-coco", weights="models/maskrcnn", steps=3000, learning_rate=1e-3),
    downstream=Downstream(steps=3000),
    stablesdg=StableSDG(
        prompt="A photo of <unknown>",
        token_steps=1000,
        token_learning_rate=5e-4,
        steps=1000,
        learning_rate=1e-4,
        images=1000,
        solver_steps=20,
        tuning=None,
        guidance=7.5,
        per_class=TABLE_I,
    ),
    baselines=Baselines(
        gan_width=64,  # 1024 channels at 4 px, as in its paper, and one halving more
        gan_steps=10_000,
        gan_batch=128,
        ddim_widths=(128, 256, 384, 512),
        ddim_steps=20_000,
        ddim_batch=16,
        ddim_learning_rate=1e-4,
    ),
)

PROFILES = {profile.name: profile for profile in (EMBEDDED, SD15)}


def load_profile(name: str) -> Profile:
    """The profile of that name. Raises PipelineError listing the names."""
    if name not in PROFILES:
        raise PipelineError(f"There is no profile {name!r}; use one of {', '.join(PROFILES)}.")
    return PROFILES[name]
