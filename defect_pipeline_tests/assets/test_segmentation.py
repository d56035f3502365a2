"""Which weights a training ends with: those that did best on the real val images, also after a kill; and what it sees."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from defect_pipeline import profiles
from defect_pipeline.imaging.ingest import ingest
from defect_pipeline.recognition import learning, segmentor

segmentation = importlib.import_module("defect_pipeline.assets.segmentation")
STAGES = [("synthetic", 4), ("real", 12)]


class Training:
    """A training whose only weight is the number of the step, and val images that like some steps better than others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, scores: dict[int, float], val_images: int = 2):
        self.model, self.scores, self.tried, self.killed_at = nn.Linear(1, 1), scores, [], 0
        self.workdir, self.judge = directory, segmentation.judged_on((["image"] * val_images, []), ("pit",))
        monkeypatch.setattr(segmentor, "train_segmentor", self.train)
        monkeypatch.setattr(segmentor, "predict", lambda model, images: model.weight.item())
        monkeypatch.setattr(segmentation, "segmentation_figures", self.figures)
        monkeypatch.setattr(learning, "CHECKPOINT_STEPS", 5)

    def train(self, model, *_, steps, resume, **__):
        for step in range((resume or {"step": 0})["step"], steps):
            if self.killed_at and step == self.killed_at and steps == 12:
                raise KeyboardInterrupt
            nn.init.constant_(model.weight, step + 1)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            yield segmentor.SegmentorTraining(step + 1, torch.tensor(0.0), model, optimizer)

    def figures(self, truth, step, categories):
        self.tried.append(int(step))
        return SimpleNamespace(segm_map=self.scores[int(step)])

    def run(self) -> float:
        learning.train_stages(
            self.model, STAGES, {"synthetic": (), "real": ()}, profiles.Segmentor(trials=3), seed=0,
            workdir=self.workdir, name="arm", judge=self.judge,
        )  # fmt: skip
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


def test_it_learns_from_windows_and_is_asked_about_whole_images(tmp_path: Path):
    folder = tmp_path / "crack"
    folder.mkdir()
    mask = np.zeros((100, 250), np.uint8)
    mask[50, 20:230] = 255  # through all three windows
    for name in ("a", "b"):
        Image.fromarray(np.full((100, 250, 3), 90 + ord(name), np.uint8)).save(folder / f"{name}.jpg")
        Image.fromarray(mask).save(folder / f"{name}.png")
    dataset = ingest(tmp_path).with_columns(split=["train", "test"])
    images, instances = segmentation.annotated_windows(dataset, "train", 50, defective=True)
    assert [image.shape for image in images] == [(50, 50, 3)] * 3 and all(len(own) == 1 for own in instances)
    images, instances = segmentation.annotated_images(dataset, "test", 50, defective=True)
    assert [image.shape for image in images] == [(50, 125, 3)]
    (((category, shown),),) = instances
    assert category == 0 and shown.shape == (50, 125) and shown.any(axis=0).sum() == 105
    assert segmentation.annotated_images(dataset, "test", 50, defective=False) == ([], [])
