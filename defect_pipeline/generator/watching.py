"""A hypernetwork watched while it learns: the loss does not show when it begins to obey, pictures do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from defect_pipeline.generator.painting import preview, steering
from defect_pipeline.profiles import Synthesis

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from defect_pipeline.diffusion.backbone import Backbone


class FixedDrivers:
    """A grid of what a hypernetwork paints by the same drivers (n, S, S, 3) uint8, a row for each time it is shown.

    ``plain`` is the prompt of the surface without a defect. As ``watch`` of a training, it shows the grid after ``half``
    of the steps.
    """

    def __init__(
        self,
        backbone: Backbone,
        hypernetwork: ControlNetModel,
        drivers: np.ndarray,
        prompts: Sequence[str],
        plain: str,
        *,
        synthesis: Synthesis,
        half: int,
    ) -> None:
        self.backbone, self.hypernetwork, self.synthesis, self.half = backbone, hypernetwork, synthesis, half
        self.drivers, self.prompts, self.plain = drivers, prompts, plain
        self.pictures, self.captions = list(drivers), ["driver"] * len(drivers)
        self.show("start")

    def __call__(self, step: int) -> None:
        if step == self.half:
            self.show(f"step {step}")

    def show(self, caption: str) -> None:
        """Add a row."""
        self.hypernetwork.eval()
        self.pictures += preview(
            self.backbone, self.prompts, self.drivers.shape[1], steps=self.synthesis.steps, batch=self.synthesis.batch,
            **steering(self.hypernetwork, self.drivers, self.plain, synthesis=self.synthesis),
        )  # fmt: skip
        self.captions += [caption] * len(self.drivers)
        self.hypernetwork.train()
