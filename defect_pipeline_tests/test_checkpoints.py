"""A checkpoint that is damaged is said to be so and counts as none, whatever trains; a whole one is gone on from."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from defect_pipeline import profiles
from defect_pipeline.baselines.dcgan import build_dcgan, learn_dcgan
from defect_pipeline.checkpoints import read_tensors, write_tensors
from defect_pipeline.evaluation.segmentation import segmentation_figures
from defect_pipeline.generator.learning import train
from defect_pipeline.recognition import learning
from defect_pipeline.recognition.classifier import build_classifier
from defect_pipeline.recognition.segmentor import build_segmentor, predict

SIZE = 32
IMAGES = list(np.random.default_rng(0).integers(0, 255, (4, SIZE, SIZE, 3), np.uint8))
MASK = np.zeros((SIZE, SIZE), bool)
MASK[8:20, 8:20] = True
TRUTH = [[(0, MASK)], [], [(0, MASK)], []]


def other_bytes(content: bytes) -> bytes:
    """One bit in the last tensor, which neither a length nor a header tells."""
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "cut off in its header": lambda content: content[:20],
    "other bytes": other_bytes,
    "no safetensors": lambda content: b"\x80\x04K\x00." * 99,  # a pickle
}


@dataclass
class Build:
    """Where a training keeps its checkpoints, and the steps that it reports."""

    workdir: Path
    steps: list[int] = field(default_factory=list)

    def progress(self, done: int, total: int, **figures: float) -> None:
        self.steps.append(done)


def denoiser(build: Build) -> nn.Module:
    """By the one loop of token, adapters, concept and hypernetwork."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8)

    def loss_at(step: int, generator: torch.Generator) -> tuple[Tensor, int]:
        return model(torch.randn(4, 8, generator=generator)).square().mean(), 4

    file = build.workdir / "checkpoint.safetensors"
    train(
        list(model.parameters()),
        loss_at,
        steps=20,
        learning_rate=1e-2,
        seed=3,
        optimizer=profiles.EMBEDDED.optimizer,
        checkpoint=file,
        progress=build.progress,
    )
    return model


def gan(build: Build) -> nn.Module:
    made = build_dcgan(SIZE, width=1, seed=0)
    learn_dcgan(
        made, np.stack(IMAGES), steps=10, seed=3, batch=2, learning_rate=2e-4, betas=(0.5, 0.999),
        checkpoint=build.workdir / "dcgan.safetensors", progress=build.progress,
    )  # fmt: skip
    return nn.ModuleList([made.generator, made.discriminator])


def classifier(build: Build) -> nn.Module:
    model = build_classifier("squeezenet", 2, seed=0)
    learning.train_recognizer(
        model, np.stack(IMAGES), [0, 1, 0, 1], profiles.Recognition(steps=4, batch=2), seed=0,
        checkpoint=build.workdir / "real.safetensors", progress=build.progress,
    )  # fmt: skip
    return model


def segmentor(build: Build) -> nn.Module:
    """Of two stages, the second of which keeps what did best on val images."""
    model = build_segmentor(1, SIZE, seed=0)
    stages = [("synthetic", 1), ("real", 2)]
    data = {"synthetic": (IMAGES, TRUTH), "real": (IMAGES, TRUTH)}
    learning.train_stages(
        model, stages, data, profiles.Segmentor(batch=2, trials=1), seed=0, workdir=build.workdir, name="real",
        judge=lambda tried: segmentation_figures(TRUTH, predict(tried, IMAGES), ("pit",)).segm_map,
        progress=build.progress,
    )  # fmt: skip
    return model


@pytest.fixture
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints as often as these short trainings need them."""
    monkeypatch.setattr(learning, "CHECKPOINT_STEPS", 1)


@pytest.mark.usefixtures("_every_step")
@pytest.mark.parametrize("trained", [denoiser, gan, classifier, segmentor], ids=lambda trained: trained.__name__)
def test_a_training_with_a_damaged_checkpoint_begins_anew_and_ends_the_same(
    trained: Callable[[Build], nn.Module], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(Build(tmp_path)).state_dict()
    *_, last = sorted(tmp_path.glob("*.safetensors"))

    going_on = Build(tmp_path)
    again = trained(going_on).state_dict()
    assert going_on.steps == [] and not caplog.records
    assert all(torch.equal(again[name], whole[name]) for name in whole)

    last.write_bytes(other_bytes(last.read_bytes()))
    with caplog.at_level(logging.WARNING, "defect_pipeline"):
        anew = trained(build := Build(tmp_path)).state_dict()
    assert f"{last} is damaged" in caplog.text and len(caplog.records) == 1
    assert build.steps and all(torch.equal(anew[name], whole[name]) for name in whole)
    assert read_tensors(last) is not None and [path for path in tmp_path.iterdir() if path.suffix != last.suffix] == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_noticed_and_named(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "checkpoint.safetensors"
    tensors = {
        "a": torch.arange(6.0).reshape(1, 2, 1, 3).to(memory_format=torch.channels_last),
        "step": torch.tensor(3),
    }
    write_tensors(file, tensors)
    read = read_tensors(file)
    assert read is not None and read.keys() == tensors.keys() and not caplog.records
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert read_tensors(file) is None and str(file) in caplog.text


def test_a_write_that_fails_leaves_the_checkpoint_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "checkpoint.safetensors"
    write_tensors(file, {"a": torch.zeros(3)})
    monkeypatch.setattr("defect_pipeline.checkpoints._save", _half)
    with pytest.raises(OSError, match="full"):
        write_tensors(file, {"a": torch.ones(3)})
    read = read_tensors(file)
    assert read is not None and torch.equal(read["a"], torch.zeros(3)) and list(tmp_path.iterdir()) == [file]


def _half(tensors: dict[str, Tensor], path: Path, **_: object) -> None:
    path.write_bytes(b"half")
    raise OSError("full")
