"""Which weights a training ends with: those that did best on the real val images, also after a kill."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from defect_pipeline import profiles
from defect_pipeline.recognition import segmentor

segmentation = importlib.import_module("defect_pipeline.assets.segmentation")
STAGES = [("synthetic", 4), ("real", 12)]


class Training:
    """A training whose only weight is the number of the step, and val images that like some steps better than others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, scores: dict[int, float], val_images: int = 2):
        self.model, self.scores, self.tried, self.killed_at = nn.Linear(1, 1), scores, [], 0
        self.build = SimpleNamespace(
            settings=SimpleNamespace(segmentor=profiles.Segmentor(trials=3)),
            workdir=directory, progress=lambda *_, **__: None, classes=lambda: ("pit",),
        )  # fmt: skip
        monkeypatch.setattr(segmentor, "train_segmentor", self.train)
        monkeypatch.setattr(segmentation, "validation_windows", lambda build: (["image"] * val_images, []))
        monkeypatch.setattr(segmentor, "predict", lambda model, images: model.weight.item())
        monkeypatch.setattr(segmentation, "segmentation_figures", self.judge)
        monkeypatch.setattr(segmentation, "CHECKPOINT_STEPS", 5)

    def train(self, model, *_, steps, resume, **__):
        for step in range((resume or {"step": 0})["step"], steps):
            if self.killed_at and step == self.killed_at and steps == 12:
                raise KeyboardInterrupt
            nn.init.constant_(model.weight, step + 1)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            yield segmentor.SegmentorTraining(step + 1, torch.tensor(0.0), model, optimizer)

    def judge(self, truth, step, categories):
        self.tried.append(int(step))
        return SimpleNamespace(segm_map=self.scores[int(step)])

    def run(self) -> float:
        segmentation.train_stages(self.build, self.model, "arm", STAGES, {"synthetic": (), "real": ()}, seed=0)
        return self.model.weight.item()


def test_the_best_on_val_is_kept_and_only_the_last_stage_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    training = Training(monkeypatch, tmp_path, {8: 0.1, 10: 0.4, 12: 0.2})
    assert training.run() == 10
    assert training.tried == [8, 10, 12]


def test_of_equally_good_ones_the_last_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert Training(monkeypatch, tmp_path, {8: 0.4, 10: 0.4, 12: 0.2}).run() == 10


def test_without_val_images_the_last_weights_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    training = Training(monkeypatch, tmp_path, {}, val_images=0)
    assert training.run() == 12 and not training.tried


def test_a_killed_training_ends_with_the_same_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    training = Training(monkeypatch, tmp_path, {8: 0.5, 10: 0.1, 12: 0.2})
    training.killed_at = 11
    with pytest.raises(KeyboardInterrupt):
        training.run()
    training.killed_at, training.tried = 0, []
    assert training.run() == 8 and training.tried == [12]  # went on from step 10
