import copy

import numpy as np
import pytest
import torch

from defect_pipeline.errors import PipelineError
from defect_pipeline.recognition.classifier import (
    NAMES,
    PRETRAINED,
    build_classifier,
    predict_classes,
    train_classifier,
)


def drawn(n: int, size: int = 64) -> tuple[np.ndarray, list[int]]:
    """Stripes (0) and dots (1) on grey noise."""
    rng = np.random.default_rng(0)
    images = rng.normal(120, 15, (n, size, size, 3)).clip(0, 255).astype(np.uint8)
    labels = [i % 2 for i in range(n)]
    for image, label in zip(images, labels, strict=True):
        if label:
            for y, x in rng.integers(4, size - 8, (12, 2)):
                image[y : y + 5, x : x + 5] = 20
        else:
            image[rng.integers(4, 12) :: 14] = 230
    return images, labels


def trained(name: str, images: np.ndarray, labels: list[int], steps: int, **options) -> torch.nn.Module:
    model = build_classifier(name, 2)
    for _ in train_classifier(model, images, labels, steps=steps, seed=0, batch=8, **options):
        pass
    return model


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_learns_and_answers_with_probabilities(name: str):
    images, labels = drawn(8)
    model = build_classifier(name, 2)
    losses = [state.loss.item() for state in train_classifier(model, images, labels, steps=2, seed=0, batch=8)]
    probabilities = predict_classes(model, images)
    assert np.isfinite(losses).all() and probabilities.shape == (8, 2)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_what_is_learned_holds_for_images_never_seen():
    images, labels = drawn(48)
    model = trained(PRETRAINED, images[:24], labels[:24], 25)
    assert (predict_classes(model, images[24:]).argmax(axis=1) == labels[24:]).mean() > 0.9


def test_a_resumed_training_equals_an_uninterrupted_one():
    images, labels = drawn(8)
    whole = trained("squeezenet", images, labels, 4)  # with dropout
    model = build_classifier("squeezenet", 2)
    state = next(s for s in train_classifier(model, images, labels, steps=4, seed=0, batch=8) if s.step == 2)
    kept = copy.deepcopy(state.state_dict())
    resumed = build_classifier("squeezenet", 2, seed=5)
    torch.rand(3)
    for _ in train_classifier(resumed, images, labels, steps=4, seed=0, batch=8, resume=kept):
        pass
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_the_pretrained_one_keeps_its_batchnorm_statistics():
    images, labels = drawn(8)
    before = build_classifier(PRETRAINED, 2).features.bn1.running_mean.clone()
    assert torch.equal(trained(PRETRAINED, images, labels, 2).features.bn1.running_mean, before)


def test_bad_input_is_said_plainly():
    with pytest.raises(PipelineError, match="choose of alexnet"):
        build_classifier("perceptron", 2)
    with pytest.raises(PipelineError, match="no image to train"):
        next(
            train_classifier(build_classifier("squeezenet", 2), np.zeros((0, 64, 64, 3), np.uint8), [], steps=1, seed=0)
        )
