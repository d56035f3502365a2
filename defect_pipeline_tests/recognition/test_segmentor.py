import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from defect_pipeline.checkpoints import read_tensors, write_tensors
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.segmentation import segmentation_figures
from defect_pipeline.profiles import Segmentor
from defect_pipeline.recognition import segmentor
from defect_pipeline.recognition.examples import augmentation, batch_indices, reseed
from defect_pipeline.recognition.segmentor import (
    build_segmentor,
    predict,
    regime_stages,
    train_segmentor,
)


def drawn(n: int, size: int = 64) -> tuple[list[np.ndarray], list[list[tuple[int, np.ndarray]]]]:
    """Dark squares (0) and bright bars (1) on grey noise."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for i in range(n):
        image = rng.normal(120, 10, (size, size, 3)).clip(0, 255).astype(np.uint8)
        x, y = (int(v) for v in rng.integers(4, size - 34, 2))
        mask = np.zeros((size, size), bool)
        if i % 2:
            mask[y : y + 8, x : x + 30] = True
        else:
            mask[y : y + 18, x : x + 18] = True
        image[mask] = 230 if i % 2 else 20
        images.append(image)
        masks.append([(i % 2, mask)])
    return images, masks


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def fresh():
    return build_segmentor(2, 64, "efficientnet-lite0")


def test_overfits_four_images():
    model = build_segmentor(2, 64, "efficientnet-lite0")
    images, masks = drawn(4)
    losses = [state.loss.item() for state in train_segmentor(model, images, masks, steps=60, seed=0, batch=4)]
    figures = segmentation_figures(masks, predict(model, images), ["square", "bar"])
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert figures.segm_ap50 > 0.5 and figures.strict_iou > 0.5


def test_resumed_training_equals_an_uninterrupted_one(fresh, tmp_path: Path):
    images, masks = drawn(5)
    images.append(np.full((64, 64, 3), 120, np.uint8))  # a negative
    masks.append([])
    whole, first = copy.deepcopy(fresh), copy.deepcopy(fresh)
    for _ in train_segmentor(whole, images, masks, steps=4, seed=1, batch=3):
        torch.rand(3)  # whatever the caller draws meanwhile changes nothing

    for state in train_segmentor(first, images, masks, steps=4, seed=1, batch=3):
        if state.step == 2:
            write_tensors(tmp_path / "saved", state.state_dict())
            break
    second = copy.deepcopy(fresh)
    saved = read_tensors(tmp_path / "saved")
    steps = [s.step for s in train_segmentor(second, images, masks, steps=4, seed=1, batch=3, resume=saved)]
    assert steps == [3, 4]
    expected = tensors(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(second).items())
    assert any(not torch.equal(tensor, expected[name]) for name, tensor in tensors(first).items())


def test_training_leaves_the_callers_randomness_alone(fresh):
    images, masks = drawn(2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_segmentor(2, 64, "efficientnet-lite0", seed=3)
    list(train_segmentor(copy.deepcopy(fresh), images, masks, steps=1, seed=0, batch=2))
    assert torch.rand(1) == expected


def test_frozen_tensors_stay_and_all_others_move(fresh):
    model = copy.deepcopy(fresh)
    before = tensors(model)
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    list(train_segmentor(model, *drawn(4), steps=2, seed=0, batch=4))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "backbone.body.blocks.6.0.conv_pw.weight" in trainable and "backbone.body.conv_stem.weight" not in trainable
    for name, tensor in tensors(model).items():
        assert torch.equal(tensor, before[name]) != (name in trainable), name


def test_only_negatives_can_be_trained_on(fresh):
    images = [np.full((64, 64, 3), 90 + 20 * i, np.uint8) for i in range(2)]
    states = list(train_segmentor(copy.deepcopy(fresh), images, [[], []], steps=2, seed=0, batch=2))
    assert all(torch.isfinite(state.loss) for state in states)


def test_no_image_is_a_sentence(fresh):
    with pytest.raises(PipelineError, match="train split"):
        next(train_segmentor(fresh, [], [], steps=1, seed=0))


def test_augmentation_moves_mask_and_box_with_the_image():
    image = np.full((48, 64, 3), 120, np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[3:9, 5:30] = True
    image[mask] = 255
    changes = augmentation(rotations=True, strong=False)
    seen = set()
    for seed in range(40):
        reseed(changes, seed)
        pixels, target = segmentor._example(changes, image, [(1, mask)], torch.device("cpu"))
        moved = target["masks"][0].bool()
        level = pixels.mean(dim=0)
        assert level[moved].mean() > level[~moved].mean() + 0.2
        assert moved.sum() == mask.sum() and target["labels"].tolist() == [2]
        x0, y0, x1, y1 = (int(v) for v in target["boxes"][0])
        assert moved[y0:y1, x0:x1].all() and (x1 - x0) * (y1 - y0) == mask.sum()
        seen.add((x0, y0, x1, y1))
    assert len(seen) == 8  # all symmetries

    upright = augmentation(rotations=False, strong=False)
    assert all(segmentor._example(upright, image, [], torch.device("cpu"))[0].shape == (3, 48, 64) for _ in range(10))


def test_strong_augmentation_keeps_masks_on_their_defects_and_drops_what_left_the_picture():
    image, mask, corner = np.full((64, 64, 3), 60, np.uint8), np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[24:40, 20:44] = True
    corner[:2, :2] = True
    image[mask] = 220
    changes = augmentation(rotations=True, strong=True)
    counts, areas = set(), set()
    for seed in range(40):
        reseed(changes, seed)
        pixels, target = segmentor._example(changes, image, [(1, mask), (0, corner)], torch.device("cpu"))
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        moved = target["masks"][0].bool()
        level = pixels.mean(dim=0)
        assert target["labels"][0] == 2 and level[moved].mean() > level[~moved].mean() + 0.2
        counts.add(len(target["labels"]))
        areas.add(int(moved.sum()))
    assert counts == {1, 2} and max(areas) > 1.3 * mask.sum() and min(areas) < 0.8 * mask.sum()


def test_a_single_pixel_has_a_box():
    mask = np.zeros((8, 8), bool)
    mask[7, 7] = True
    assert segmentor._box(mask) == (7, 7, 8, 8)


def test_every_image_is_seen_as_often():
    seen = np.bincount([i for step in range(21) for i in batch_indices(7, 4, 0, step)], minlength=7)
    assert seen.tolist() == [12] * 7
    assert sorted(batch_indices(8, 8, 0, 3)) == list(range(8)) != batch_indices(8, 8, 0, 3)
    assert batch_indices(8, 8, 0, 3) != batch_indices(8, 8, 1, 3)


def test_every_regime_has_the_same_number_of_steps():
    assert [name for name, _ in regime_stages("synthetic_then_real", 101)] == ["synthetic", "real"]
    for regime in ("real", "synthetic", "synthetic_then_real"):
        assert sum(steps for _, steps in regime_stages(regime, 101)) == 101
    with pytest.raises(PipelineError, match="choose"):
        regime_stages("both", 10)


def test_predictions_are_in_the_pixels_of_each_image(fresh):
    model = copy.deepcopy(fresh)
    model.roi_heads.score_thresh = 0.0
    images = [
        np.full((40, 64, 3), 90, np.uint8),
        np.full((128, 100, 3), 90, np.uint8),
        np.full((64, 64, 3), 9, np.uint8),
    ]
    predictions = predict(model, images, batch=2)
    for image, p in zip(images, predictions, strict=True):
        assert p.masks.dtype == bool and p.masks.shape == (len(p.scores), *image.shape[:2]) and len(p.scores) > 0
        assert p.boxes.shape == (len(p.scores), 4) and set(p.labels) <= {0, 1}
        assert (np.diff(p.scores) <= 0).all()
    model.roi_heads.score_thresh = 1.1
    assert predict(model, images[:1])[0].masks.shape == (0, 40, 64)


def test_heads_depend_on_the_seed_only():
    a, b, c = (build_segmentor(1, 64, "efficientnet-lite0", seed=s).roi_heads.box_head.fc6.weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_coco_weights_missing_or_damaged_name_the_remedy(tmp_path):
    with pytest.raises(PipelineError, match=f"{segmentor.COCO_FILE} is missing.*efficientnet-lite0"):
        build_segmentor(3, 64, "resnet50-coco", tmp_path)
    (tmp_path / segmentor.COCO_FILE).write_bytes(b"cut off")
    with pytest.raises(PipelineError, match="not the published file"):
        build_segmentor(3, 64, "resnet50-coco", tmp_path)
    with pytest.raises(PipelineError, match="choose"):
        build_segmentor(3, 64, "vgg")


def test_coco_weights_are_read_from_a_local_file(tmp_path, monkeypatch):
    """Random weights in the published layout: torchvision's own model writes them."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    published = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(segmentor, "COCO_FILE", f"maskrcnn-{digest[:8]}.pth")
    (tmp_path / "weights.pth").rename(tmp_path / segmentor.COCO_FILE)

    model = build_segmentor(3, 64, "resnet50-coco", tmp_path)
    weight = "roi_heads.box_head.fc6.weight"
    assert torch.equal(model.state_dict()[weight], published.state_dict()[weight])
    assert model.roi_heads.box_predictor.cls_score.out_features == 4
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(predict(model, [np.zeros((64, 64, 3), np.uint8)])) == 1


def test_steps_grow_with_the_real_images_and_have_a_floor():
    settings = Segmentor(steps=120, passes=12, batch=8)
    assert [settings.steps_for(n) for n in (10, 80, 81, 800)] == [120, 120, 122, 1200]
