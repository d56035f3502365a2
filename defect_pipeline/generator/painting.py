"""How generators paint: by a driver on a background, on a noised image, from noise by words alone; and baselines.

A `Sampler` paints a batch as its generator does; a `Painter` is what makes of it the images of a set. The twin of an image
is painted from the same noise without its defect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from defect_pipeline import diffusion, imaging
from defect_pipeline.checkpoints import read_tensors, write_tensors
from defect_pipeline.generator.canvases import MARGIN, Canvases, strengths
from defect_pipeline.generator.prompts import concept_prompt, condition_prompt
from defect_pipeline.imaging.drivers import without_defects
from defect_pipeline.imaging.masks import dilated
from defect_pipeline.profiles import Synthesis
from defect_pipeline.resumable import Progress, silent

if TYPE_CHECKING:
    from diffusers import ControlNetModel
    from torch import Tensor

    from defect_pipeline.diffusion.backbone import Backbone

PRIOR_SEED, PREVIEW_SEED = 10_000_000, 20_000_000  # apart from every seed of a synthetic image
OnBatch = Callable[[int, np.ndarray], None]  # called after each batch with its place and its images


class Painter(Protocol):
    """Paints images (n, S, S, 3) uint8, one for each canvas and seed, or without ``defects`` their twins: the same in
    everything but the masks. ``on_batch(start, images)`` is called after each batch."""

    def __call__(self, canvases: Canvases, seeds: Sequence[int], *, defects: bool, on_batch: OnBatch) -> np.ndarray: ...


class Sampler(Protocol):
    """A batch (n, S, S, 3) uint8 as a generator paints it, with the canvases' defects or without."""

    def __call__(self, canvases: Canvases, seeds: Sequence[int], defects: bool, /) -> np.ndarray: ...


Scale = Callable[[Sampler], float]  # by how much what a sampler's masks change is toned down


# --- The first system, and what both share -------------------------------------------------------------------------


def paint(
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    canvases: Canvases,
    seeds: Sequence[int],
    *,
    synthesis: Synthesis,
    token: str,
    from_noise: bool = False,
    defects: bool = True,
    scale: Scale = lambda sampled: 1.0,
    on_batch: OnBatch = lambda *_: None,
) -> np.ndarray:
    """What a `Painter` paints, by the first system's generator (paper A §3.4).

    With `Synthesis.transfer`, what the masks changed against the images' twins goes onto the backgrounds, at ``scale``: the
    surface itself is theirs to the last pixel, and a twin is the background. Without transfer, or ``from_noise``, they
    are the generator's as they are, ``from_noise`` all of them from pure noise, as in the paper.
    """

    def sampled(canvases: Canvases, seeds: Sequence[int], defects: bool, /) -> np.ndarray:
        return sample_by_drivers(
            backbone, hypernetwork, canvases, seeds, defects, synthesis=synthesis, token=token, from_noise=from_noise
        )

    return in_batches(
        sampled, canvases, seeds, batch=synthesis.batch, transfer=synthesis.transfer and not from_noise, scale=scale,
        defects=defects, on_batch=on_batch,
    )  # fmt: skip


def in_batches(
    sampled: Sampler,
    canvases: Canvases,
    seeds: Sequence[int],
    *,
    batch: int,
    transfer: bool,
    scale: Scale,
    defects: bool,
    on_batch: OnBatch,
) -> np.ndarray:
    """What a `Painter` paints, by ``sampled``, which is given a batch at a time; ``transfer`` and ``scale`` as in `paint`."""
    parts = []
    times = scale(sampled) if transfer and defects else 1.0
    for start in range(0, len(seeds), batch):
        chosen, noise = canvases[start : start + batch], seeds[start : start + batch]
        if not transfer:
            images = sampled(chosen, noise, defects)
        elif defects:
            images = imaging.contrast.with_changes(chosen.backgrounds, changes(sampled, chosen, noise), times)
        else:
            images = chosen.backgrounds
        parts.append(images)
        on_batch(start, images)
    return np.concatenate(parts)


def changes(sampled: Sampler, canvases: Canvases, seeds: Sequence[int]) -> np.ndarray:
    """What the masks change in grey levels, (n, S, S, 3) int16: what sets images apart from their twins.

    What a small generator gets wrong about the surface, image and twin have in common, so it cancels.
    """
    return sampled(canvases, seeds, True).astype(np.int16) - sampled(canvases, seeds, False)


class Contrast(NamedTuple):
    """How much defects stand out, of training and as painted, and the scale at which the painted ones do so alike."""

    training: float
    painted: float
    scale: float


def matched_contrast(
    sampled: Sampler, canvases: Canvases, seeds: Sequence[int], wanted: float, *, visible: float
) -> Contrast:
    """The scale at which what the masks of some canvases change stands out as much as is ``wanted``, see
    `imaging.contrast`: toned down, but still ``visible``, in grey levels."""
    changed = changes(sampled, canvases, seeds)
    scale = imaging.contrast.matching_scale(canvases.backgrounds, changed, canvases.masks, wanted, visible=visible)
    painted = imaging.contrast.with_changes(canvases.backgrounds, changed)
    return Contrast(wanted, imaging.contrast.typical_contrast(painted, canvases.masks), scale)


def sample_by_drivers(
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    canvases: Canvases,
    seeds: Sequence[int],
    defects: bool,
    *,
    synthesis: Synthesis,
    token: str,
    from_noise: bool,
) -> np.ndarray:
    """One batch as the first system's generator paints it, (n, S, S, 3) uint8.

    What the masks cover comes from noise, and so does everything at a strength of 1, or ``from_noise``; else what lies
    around comes from the background, see `strength_map`.
    """
    drivers = canvases.drivers if defects else without_defects(canvases.drivers)
    sources: Tensor | None = None
    strength: Tensor | float = 1.0
    if not from_noise and synthesis.strength < 1:
        sources = backbone.encode_pixels(canvases.backgrounds)
        strength = strengths(backbone, canvases.masks, synthesis.strength, synthesis.fade)
    plain = concept_prompt(token)
    prompt = condition_prompt(token, canvases.defect_class) if defects else plain
    latents = diffusion.sampling.sample_images(
        backbone, [prompt] * len(seeds), seeds, drivers.shape[1], steps=synthesis.steps, batch=synthesis.batch,
        sources=sources, strength=strength,
        **steering(hypernetwork, drivers, plain, synthesis=synthesis, guided=defects),
    )  # fmt: skip
    return backbone.decode(latents).numpy()


def steering(
    hypernetwork: ControlNetModel,
    drivers: np.ndarray,
    plain: str,
    *,
    synthesis: Synthesis,
    guidance: float | None = None,
    guided: bool = True,
) -> dict[str, Any]:
    """How drivers (n, S, S, 3) uint8 steer `sample_images`: by themselves and, ``guided``, away from the defect-free
    component, which the prompt ``plain`` names. A driver without a defect has nothing to be led away from.

    Where ``synthesis`` does not guide in this way, ``guidance``, by default its own, leads away from the empty prompt.
    """
    steered: dict[str, Any] = {"hypernetwork": hypernetwork, "drivers": diffusion.sampling.conditions(drivers)}
    if synthesis.defect_guidance == 1:
        return steered | {"guidance": synthesis.guidance if guidance is None else guidance}
    if not guided:
        return steered | {"guidance": 1.0}
    without = plain, diffusion.sampling.conditions(without_defects(drivers))
    return steered | {"guidance": synthesis.defect_guidance, "without": without}


# --- The second system, and both in one ----------------------------------------------------------------------------


def image_oriented(
    backbone: Backbone,
    sources: Sequence[np.ndarray],
    seeds: Sequence[int],
    *,
    prompt: str,
    strength: float,
    guidance: float,
    steps: int,
    batch: int,
    on_batch: OnBatch = lambda *_: None,
) -> np.ndarray:
    """Images (n, S, S, 3) uint8, each from its source (S, S, 3), noised to T' = ``strength`` T (paper B §3.3)."""
    parts: list[np.ndarray] = []

    def decode(start: int, latents: Tensor) -> None:
        parts.append(backbone.decode(latents).numpy())
        on_batch(start, parts[-1])

    given = np.stack(sources)
    diffusion.sampling.sample_images(
        backbone, [prompt] * len(seeds), seeds, given.shape[1], steps=steps, guidance=guidance, batch=batch,
        strength=strength, sources=backbone.encode_pixels(given), on_batch=decode,
    )  # fmt: skip
    return np.concatenate(parts)


def sample_on_sources(
    backbone: Backbone,
    hypernetwork: ControlNetModel,
    canvases: Canvases,
    seeds: Sequence[int],
    defects: bool,
    *,
    synthesis: Synthesis,
    prompt: str,
    strength: float,
    guidance: float,
    steps: int,
    own: bool,
) -> np.ndarray:
    """One batch (n, S, S, 3) uint8: the backgrounds noised to T' = s T, s being ``strength``, and painted anew by their
    drivers (paper B §3.3 with paper A §3.2).

    On a defect-free picture, what the masks cover is painted from noise: T' keeps what the source shows, and that is no
    defect. (Noised to half of T everywhere, the sample's pictures change by 6 grey levels under the masks of cracks; to
    0.8 of it, by 23; from noise, by 89.) A picture with its ``own`` defects is noised to T' as a whole, but for its twin,
    which has to forget them.
    """
    drivers = canvases.drivers if defects else without_defects(canvases.drivers)
    steered = steering(hypernetwork, drivers, prompt, synthesis=synthesis, guidance=guidance, guided=defects)
    whole = own and defects
    latents = diffusion.sampling.sample_images(
        backbone, [prompt] * len(seeds), seeds, drivers.shape[1], steps=steps, batch=synthesis.batch,
        sources=backbone.encode_pixels(canvases.backgrounds),
        strength=strength if whole else strengths(backbone, canvases.masks, strength, synthesis.fade),
        **steered,
    )  # fmt: skip
    return backbone.decode(latents).numpy()


# --- From noise, and a baseline ------------------------------------------------------------------------------------


def from_noise(
    backbone: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: int,
    *,
    steps: int,
    batch: int,
    **steered: Any,
) -> list[np.ndarray]:
    """One image (size, size, 3) uint8 for each prompt and seed, all from noise; ``steered`` as `sample_images` takes it,
    ``guidance`` among it."""
    latents = diffusion.sampling.sample_images(backbone, prompts, seeds, size, steps=steps, batch=batch, **steered)
    return list(backbone.decode(latents).numpy())


def preview(
    backbone: Backbone, prompts: Sequence[str], size: int, *, steps: int, batch: int, **steered: Any
) -> list[np.ndarray]:
    """What `from_noise` paints for each prompt, from seeds that stay the same from run to run."""
    seeds = range(PREVIEW_SEED, PREVIEW_SEED + len(prompts))
    return from_noise(backbone, prompts, seeds, size, steps=steps, batch=batch, **steered)


def prior_latents(
    backbone: Backbone,
    prompt: str,
    n: int,
    size: int,
    file: Path,
    *,
    synthesis: Synthesis,
    progress: Progress = silent,
) -> Tensor:
    """Latents (n, C, h, w) that the untouched model samples for a class's prompt; kept in the file over a kill."""
    if kept := read_tensors(file):
        return kept["latents"].to(backbone.device)
    latents = diffusion.sampling.sample_images(
        backbone, [prompt] * n, range(PRIOR_SEED, PRIOR_SEED + n), size,
        steps=synthesis.steps, guidance=synthesis.guidance, batch=synthesis.batch,
        on_batch=lambda start, z: progress(start + len(z), n),
    )  # fmt: skip
    write_tensors(file, {"latents": latents})
    return latents


def inpainted(
    backbone: Backbone, canvases: Canvases, seeds: Sequence[int], *, synthesis: Synthesis, token: str
) -> np.ndarray:
    """Images (n, S, S, 3) uint8: the concept alone, prompted for the defect, fills the masks from pure noise;
    everywhere else the background stays (paper A §5.3)."""
    masks = np.stack([dilated(mask, MARGIN) for mask in canvases.masks])
    latents = diffusion.sampling.sample_images(
        backbone, [condition_prompt(token, canvases.defect_class)] * len(seeds), seeds, masks.shape[1],
        steps=synthesis.steps, guidance=synthesis.guidance, batch=synthesis.batch,
        sources=backbone.encode_pixels(canvases.backgrounds), strength=backbone.at_latent_size(masks),
    )  # fmt: skip
    return np.where(masks[..., None], backbone.decode(latents).numpy(), canvases.backgrounds)
