"""Image-oriented generation (paper B §3.3) with mask control (paper A §3.2): what paper B names as future work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from defect_pipeline import generator
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stablesdg.adapt import PAINTED, load_adapted, lora_weights, token_embedding
from defect_pipeline.assets.stablesdg.tune import Tuned, strength_and_guidance
from defect_pipeline.assets.stage import Build, Stage
from defect_pipeline.assets.synthesis import contrast_scale, read_canvases
from defect_pipeline.assets.union.canvases import Canvassed, union_canvases
from defect_pipeline.generator.canvases import Canvases

if TYPE_CHECKING:
    from defect_pipeline.generator.painting import Painter, Sampler


@dataclass(frozen=True)
class UnionFrom:
    """The stages that the union paints from, beside those that every class's adapted backbone comes from."""

    drivers: Stage
    weights: Stage
    bank: Stage = union_canvases
    settings: tuple[str, ...] = ("synthesis", *PAINTED)

    @property
    def parents(self) -> tuple[Stage, ...]:
        adapted = (token_embedding, lora_weights, strength_and_guidance)
        return (inspection_images, self.bank, self.drivers, *adapted, self.weights)

    def painter(self, build: Build) -> Painter:
        """The class's adapted backbone and its hypernetwork."""
        backbone, settings = load_adapted(build), build.settings
        hypernetwork = backbone.load_hypernetwork(build.read(self.weights).path / "controlnet")
        chosen = build.read(strength_and_guidance).load(Tuned).chosen
        own = build.read(self.bank).load(Canvassed).own
        sampled = partial(
            generator.painting.sample_on_sources, backbone, hypernetwork, synthesis=settings.synthesis,
            prompt=settings.stablesdg.prompt, **chosen._asdict(), steps=settings.stablesdg.solver_steps, own=own,
        )  # fmt: skip
        return partial(
            generator.painting.in_batches, sampled, batch=settings.synthesis.batch,
            transfer=settings.synthesis.transfer and not own, scale=partial(self.scale, build),
        )  # fmt: skip

    def canvases(self, build: Build, defect_class: str, chosen: Sequence[int] | None = None) -> Canvases:
        """Those of a class, or the chosen ones, which may repeat."""
        return read_canvases(build, self.bank, self.bank, self.drivers, defect_class, chosen)

    def scale(self, build: Build, sampled: Sampler) -> float:
        """See `contrast_scale`."""
        return contrast_scale(build, sampled, self.bank, self.bank, self.drivers)
