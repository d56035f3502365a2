"""The settings as frozen typed objects. A default is the papers' value, or a common one where they name none.

A stage's digest is made from the settings that it declares, so changing one value remakes what depends on it, nothing
else.
"""

import math
from collections.abc import Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from defect_pipeline.errors import PipelineError

CHECKED = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class ModelFiles:
    """Marks a setting that names a directory of model files: it counts by what is in it, and in a profile's file it is
    relative to that file."""


ModelDirectory = Annotated[str, ModelFiles()]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Limit = Annotated[float, Field(ge=0)]  # inf: none
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Square = Annotated[int, Field(ge=8, multiple_of=8)]  # px


@dataclass(frozen=True, config=CHECKED)
class Splits:
    """The three sides of the data. All images of a part stand on one side."""

    train: Share = 0.6
    """Share of the groups that generators and segmentors learn from."""
    val: Share = 0.1
    """Share of the groups by which a training is stopped early."""
    test: Share = 0.3
    """Share of the groups that are measured only."""

    def __post_init__(self) -> None:
        shares = (self.train, self.val, self.test)
        if not math.isclose(sum(shares), 1) or not self.train:
            raise PipelineError(f"The splits are {shares}; they are shares, the first above 0, that add up to 1.")


@dataclass(frozen=True, config=CHECKED)
class Pool:
    """Defect-free images to paint on (paper A §3.4)."""

    variants: Count = 10
    """Offline augmentations of each defect-free image."""
    images: Count = 10_000
    """Defect-free images used at most."""


@dataclass(frozen=True, config=CHECKED)
class Masks:
    """Where synthetic defects go (paper A §3.4)."""

    per_class: Count = 200
    """Masks, hence drivers, of each class."""
    strategy: Literal["perturbed", "shape model"] = "perturbed"
    """Annotated masks, changed a little (i), or new ones of a shape model (iii)."""
    framing: Literal["crops", "windows"] = "crops"
    """Annotated masks closed in on, as the generator learns them, or as a segmentor's windows show them: small, and cut."""
    sizes: tuple[Positive, Positive] = (1.0, 1.0)
    """Times as long and wide as annotated, from and to; of "perturbed"."""
    placement: Literal["near", "learned"] = "near"
    """Where annotated, moved by up to a quarter, or where defects of the class occur."""

    def __post_init__(self) -> None:
        if self.sizes[0] > self.sizes[1]:
            raise PipelineError(f"The sizes of masks are {self.sizes}; name the smallest and the largest, above 0.")


@dataclass(frozen=True, config=CHECKED)
class Drivers:
    """The topological driver (paper A §3.3) and the crops it is made from."""

    size: Square = 512
    """px, a multiple of 8: the side of what is learned and painted."""
    downscale: Count = 8
    """Times smaller, before the adaptive threshold."""
    block: Annotated[int, Field(ge=3)] = 31
    """Downscaled px, odd: the neighbourhood of the adaptive threshold."""
    offset: float = 10.0
    """Grey levels below the local mean that count as structure."""
    crops: Count = 10
    """Training crops of each annotated image."""
    zoom: Annotated[float, Field(ge=1)] = 2.0
    """Times, at most: crops close in on small defects."""
    images: Count = 500
    """Annotated images of a class used at most."""

    def __post_init__(self) -> None:
        if self.block % 2 == 0:
            raise PipelineError(f"drivers.block is {self.block}; it is odd: a pixel and as many on either side.")


@dataclass(frozen=True, config=CHECKED)
class Optimizer:
    """AdamW, as it trains concept, hypernetwork, token, adapters and the diffusion baselines."""

    beta1: Decay = 0.9
    """Decay of the gradient's mean."""
    beta2: Decay = 0.999
    """Decay of the gradient's second moment."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NotNegative = 0.0
    """Decoupled; above 0 it pulls a learned token towards zero."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    warmup: Share = 0.0
    """Share of the steps in which the learning rate rises."""
    decay: Share = 0.0
    """Share of the steps, at the end, in which the learning rate falls to zero."""
    ema: Decay = 0.0
    """Decay of the moving average of the weights that a training ends with; 0: the last weights."""

    def warmup_steps(self, steps: int) -> int:
        """Of a training of ``steps``."""
        return max(1, int(steps * self.warmup + 1e-9))


@dataclass(frozen=True, config=CHECKED)
class Concept:
    """DreamBooth with prior preservation (paper A §3.1)."""

    steps: Count = 1000
    """Optimizer steps."""
    batch: Count = 4
    """Images of the component a step."""
    prior_batch: Count = 4
    """Images of its class a step, as the untouched model paints it."""
    learning_rate: Positive = 2e-6
    """AdamW's."""
    prior_weight: NotNegative = 1.0
    """Weight of the prior loss beside the instance loss."""
    prior_images: Count = 200
    """Images of the class that the untouched model paints."""
    window: Whole = 0
    """px; most steps see as many pixels in windows around defects. 0: whole crops only, as the paper."""
    token: str = "sks"
    """The rare token [V] that stands for the component."""
    class_noun: str = "component"
    """The word for what the component is one of."""


@dataclass(frozen=True, config=CHECKED)
class Hypernetwork:
    """The condition (paper A §3.2)."""

    init: Literal["zero", "backbone"] = "zero"
    """What it begins as: "zero" is the paper's copy behind zero convolutions, "backbone" the backbone's own prior."""
    steps: Count = 7000
    """Optimizer steps; a condition is fitted suddenly, at 3000 to 7000 of them with Stable Diffusion 1.5."""
    batch: Count = 4
    """Images a step."""
    learning_rate: Positive = 1e-5
    """AdamW's."""
    window: Whole = 0
    """px, as the concept's."""
    mask_weight: Positive = 1.0
    """Times that a latent pixel under a mask counts in the loss; 1 is the paper's loss."""
    text_dropout: Share = 0.5
    """Share of the prompts that are replaced by the empty one, for guidance."""


@dataclass(frozen=True, config=CHECKED)
class Synthesis:
    """How images are painted (paper A §3.4)."""

    images_per_driver: Annotated[int, Field(ge=1, le=15)] = 15
    """From different noise; the paper allows up to 15."""
    steps: Count = 20
    """Solver steps (DPM-Solver++)."""
    guidance: Positive = 7.5
    """Away from the empty prompt; 1 is none."""
    defect_guidance: Positive = 1.0
    """Away from the same driver without its defect; 1 is none. One of the two guidances is 1."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Noise outside the masks: 1 paints all from pure noise, as the paper; less keeps that much less of the image."""
    fade: NotNegative = 6.0
    """px around the masks over which the strength falls from 1."""
    transfer: bool = False
    """Keep only what a defect changes against its twin, on the defect-free image. False is the paper."""
    match_contrast: bool = True
    """With transfer: tone the change down until it stands out as training defects do."""
    visible: NotNegative = 8.0
    """Grey levels of change under the mask, at which toning down ends; as the filter asks."""
    batch: Count = 8
    """Images at once."""

    def __post_init__(self) -> None:
        if self.guidance != 1 and self.defect_guidance != 1:
            raise PipelineError(
                f"guidance is {self.guidance} and defect_guidance {self.defect_guidance}; set one of them to 1."
            )


@dataclass(frozen=True, config=CHECKED)
class Filter:
    """What a synthetic image must show to be accepted."""

    visible: NotNegative = 8.0
    """Grey levels: mean change under the mask against its twin, at least."""
    ratio: NotNegative = 1.2
    """Change under the mask / within 8 px around it, at least."""
    on_component: Share = 0.9
    """Share of the mask on the component, at least."""
    refine: bool = False
    """Shrink or grow labels to the visible change."""


@dataclass(frozen=True, config=CHECKED)
class Thresholds:
    """What the checks ask of each class. KID and FID are by the extractor named in the report."""

    kid: float = 0.15
    """The largest KID to held-out images; it is unbiased, so it may be negative."""
    fid: Limit = 200.0
    """The largest FID to held-out images."""
    in_mask: Limit = 3.0
    """Change under the mask / elsewhere, at least; two thirds of it where masks are below 1 % of the image."""
    copies: Share = 0.05
    """Share of the defects that may be copies."""
    accepted: Share = 0.5
    """Share of the images that the filter accepts, at least."""
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class -> those above that differ for it."""

    def __post_init__(self) -> None:
        names = [one.name for one in fields(self) if one.name != "per_class"]
        for name in names:
            if math.isnan(getattr(self, name)):
                raise PipelineError(f"thresholds.{name} is nan; it is a number.")
        for k, own in self.per_class.items():
            for name in own:
                if name not in names:
                    raise PipelineError(
                        f"thresholds.per_class.{k}: there is no threshold {name!r}; use {', '.join(names)}."
                    )
            try:
                self.of(k)
            except (ValidationError, PipelineError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                raise PipelineError(f"thresholds.per_class.{k} is {own}: {reason}.") from error

    def of(self, defect_class: str) -> "Thresholds":
        """Those of a class."""
        own = {name: float(value) for name, value in self.per_class.get(defect_class, {}).items()}
        return replace(self, **own, per_class={})

    def limit(self, name: str, defect_class: str) -> float:
        """One of them, of a class."""
        return self.per_class.get(defect_class, {}).get(name, getattr(self, name))

    def over_classes(self, name: str) -> tuple[float, dict[str, float]] | float:
        """One of them with those of the classes that differ, if any: what an artifact depends on that looks at it."""
        general = getattr(self, name)
        own = {k: found[name] for k, found in self.per_class.items() if found.get(name, general) != general}
        return (general, own) if own else general

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises PipelineError for thresholds of a class that is none of ``classes``: a slip would loosen a gate."""
        for name in self.per_class:
            if name not in classes:
                raise PipelineError(
                    f"There are thresholds for a class {name!r}, but the images show {', '.join(classes)}: correct its "
                    "name in the profile, or forget them with --set thresholds.per_class={}."
                )


TABLE_I = {  # paper B: strength s and guidance of each class of NEU, found with Stable Diffusion 1.5
    "crazing": (0.2, 2.0), "inclusion": (0.9, 9.0), "patches": (0.4, 6.0),
    "pitted_surface": (0.5, 3.0), "rolled-in_scale": (0.1, 8.0), "scratches": (0.5, 7.0),
}  # fmt: skip


@dataclass(frozen=True, config=CHECKED)
class Tuning:
    """Which strengths and guidances of image-oriented generation are tried, by successive halving."""

    strengths: tuple[Share, ...] = (0.3, 0.5, 0.7)
    """Candidates for s, where T' = s T."""
    guidances: tuple[Positive, ...] = (1.0, 3.0)
    """Candidates for the guidance."""
    images: Count = 8
    """Of each candidate in the first round, two at least; twice as many in the next."""

    def __post_init__(self) -> None:
        if len(self.strengths) * len(self.guidances) < 2 or self.images < 2:
            raise PipelineError("Tuning needs two candidates, a strength and a guidance each, and two images of each.")


@dataclass(frozen=True, config=CHECKED)
class StableSDG:
    """The second system (paper B): a token and adapters for each class, images from noised real ones."""

    prompt: str = "A photo of <unknown>"
    """With the token `<unknown>`."""
    like: str = "surface with a defect"
    """Words at whose mean embedding the token begins."""
    token_steps: Count = 1000
    """Optimizer steps of the token."""
    token_learning_rate: Positive = 5e-4
    """AdamW's."""
    steps: Count = 1000
    """Optimizer steps of the adapters."""
    learning_rate: Positive = 1e-4
    """AdamW's."""
    rank: Count = 1
    """Of the adapters (LoRA)."""
    batch: Count = 4
    """Images a step."""
    images: Count = 1000
    """Painted of each class."""
    solver_steps: Count = 20
    """Within T'."""
    tune: bool = False
    """Find strength and guidance of each class on held-out halves of the train parts; else as named below."""
    tuning: Tuning = Tuning()
    strength: Share = 0.5
    """s, where T' = s T; of classes that `per_class` does not name."""
    guidance: Positive = 7.5
    """Away from the empty prompt; 1 is none."""
    per_class: dict[str, tuple[float, float]] = field(default_factory=lambda: dict(TABLE_I))
    """Class -> (strength, guidance); the default is Table I. A table in a file replaces it as a whole."""

    def __post_init__(self) -> None:
        for k, (strength, guidance) in self.per_class.items():
            if not (0 <= strength <= 1 and guidance > 0):
                raise PipelineError(
                    f"stablesdg.per_class.{k} is {(strength, guidance)}; a strength from 0 to 1, a guidance above 0."
                )

    def of(self, defect_class: str) -> tuple[float, float]:
        """(strength, guidance) named for a class."""
        return self.per_class.get(defect_class, (self.strength, self.guidance))


@dataclass(frozen=True, config=CHECKED)
class Baselines:
    """The generators that Table V of paper B trains from scratch for each class; the others are as named elsewhere."""

    gan_size: Count = 128
    """px; what the DCGAN paints is brought to the size of the drivers."""
    gan_width: Count = 64
    """Channels next to the image, twice as many at each halving: 1024 at 4 px, as in its paper, and one halving more."""
    gan_steps: Count = 10_000
    """Steps of generator and discriminator."""
    gan_batch: Count = 128
    """Images a step."""
    gan_learning_rate: Positive = 2e-4
    """Adam's, of both."""
    gan_beta1: Decay = 0.5
    """Adam's decay of the gradient's mean, of both."""
    gan_beta2: Decay = 0.999
    """Adam's decay of the gradient's second moment, of both."""
    ddim_widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 256, 384, 512)
    """Channels of the U-Net's levels."""
    ddim_steps: Count = 20_000
    """Optimizer steps."""
    ddim_batch: Count = 16
    """Images a step."""
    ddim_learning_rate: Positive = 1e-4
    """AdamW's."""
    ddim_solver_steps: Count = 50
    """Of DDIM."""


@dataclass(frozen=True, config=CHECKED)
class Segmentor:
    """The segmentor. Every regime takes the same number of optimizer steps."""

    backbone: Literal["efficientnet-lite0-pixels", "efficientnet-lite0", "resnet50-coco"] = "resnet50-coco"
    """"…-pixels" classifies pixels, the others are Mask R-CNN."""
    weights: ModelDirectory = ""
    """Directory of COCO weights for "resnet50-coco"."""
    steps: Count = 3000
    """Optimizer steps, at least."""
    passes: Whole = 9
    """Over the real images, at least."""
    batch: Count = 8
    """Images a step."""
    learning_rate: Positive = 1e-3
    """AdamW's, with warm-up and cosine."""
    weight_decay: NotNegative = 1e-2
    """AdamW's."""
    warmup: Count = 20
    """Steps in which the learning rate rises."""
    clip: Positive = 5.0
    """Largest norm of the gradient."""
    trials: Whole = 4
    """On real val images in the second half of the last stage; the best weights are kept. 0: the last ones."""

    def steps_for(self, real_images: int) -> int:
        """Optimizer steps of every regime."""
        return max(self.steps, math.ceil(self.passes * real_images / self.batch))


@dataclass(frozen=True, config=CHECKED)
class Downstream:
    """The tables that compare what a segmentor gains from each kind of data; the rest is as `segmentor` says."""

    steps: Count = 3000
    """Optimizer steps of every arm, at least."""


@dataclass(frozen=True, config=CHECKED)
class Recognition:
    """Classifiers (paper B §4); each is trained with and without the synthetic images, the same number of steps."""

    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("efficientnet-lite0", "squeezenet")
    """By name: "efficientnet-lite0" has pretrained weights, torchvision's begin from scratch."""
    steps: Count = 150
    """Optimizer steps."""
    batch: Count = 16
    """Images a step."""
    learning_rate: Positive = 3e-4
    """AdamW's, with warm-up and cosine."""
    weight_decay: NotNegative = 1e-2
    """AdamW's."""
    warmup: Count = 20
    """Steps in which the learning rate rises."""
    label_smoothing: Share = 0.05
    """Of the cross-entropy."""


@dataclass(frozen=True, config=CHECKED)
class Profile:
    """All settings."""

    name: str = "papers"
    """What reports and cards call it; that of a file is the file's."""
    backbone: ModelDirectory = "models/stable-diffusion-v1-5"
    """Directory in diffusers layout; "embedded" is the one that comes with the package."""
    extractor: Literal["inception", "efficientnet-lite0"] = "inception"
    """Of the features behind KID, FID and copies."""
    extractor_weights: ModelDirectory = ""
    """Directory of the weights file of "inception"."""
    device: str = "cuda"
    """"cpu", "cuda" or another of torch."""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the generator's arithmetic; its weights are float32 while it learns."""
    compiled: bool = False
    """The generator, by `torch.compile`: minutes at first, then faster; needs a C++ compiler."""
    splits: Splits = Splits()
    pool: Pool = Pool()
    masks: Masks = Masks()
    drivers: Drivers = Drivers()
    optimizer: Optimizer = Optimizer()
    concept: Concept = Concept()
    hypernetwork: Hypernetwork = Hypernetwork()
    synthesis: Synthesis = Synthesis()
    filter: Filter = Filter()
    thresholds: Thresholds = Thresholds()
    segmentor: Segmentor = Segmentor()
    downstream: Downstream = Downstream()
    stablesdg: StableSDG = StableSDG()
    baselines: Baselines = Baselines()
    recognition: Recognition = Recognition()
