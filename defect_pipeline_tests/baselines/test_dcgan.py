import copy

import numpy as np
import pytest
import torch

from defect_pipeline.baselines.dcgan import DCGAN, build_dcgan, paint, train_dcgan
from defect_pipeline.errors import PipelineError

SIZE = 16


def coloured(n: int = 24) -> np.ndarray:
    """Reddish squares, each a little lighter or darker."""
    rng = np.random.default_rng(0)
    return (np.array([190, 80, 50]) + rng.normal(0, 8, (n, 1, 1, 1)) + np.zeros((n, SIZE, SIZE, 3))).astype(np.uint8)


def trained(gan: DCGAN, steps: int, **options) -> list[float]:
    loop = train_dcgan(gan, coloured(), steps=steps, seed=3, batch=8, **options)
    return [state.discriminator_loss.item() for state in loop]


@pytest.mark.parametrize("size", [16, 24, 128])
def test_noise_becomes_images_and_images_become_logits(size: int):
    gan = build_dcgan(size, width=4, seed=0)
    images = gan.generator(torch.randn(3, 100, 1, 1))
    assert images.shape == (3, 3, size, size) and images.abs().max() <= 1
    assert gan.discriminator(images).shape == (3,)


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(PipelineError, match="DCGAN of 15 px"):
        build_dcgan(15, width=4, seed=0)


def test_it_learns_the_colour_of_its_images():
    gan = build_dcgan(SIZE, width=8, seed=0)
    wanted = coloured().mean(axis=(0, 1, 2))
    before = np.abs(paint(gan, range(16)).mean(axis=(0, 1, 2)) - wanted).max()
    trained(gan, 40, learning_rate=2e-3)
    after = np.abs(paint(gan, range(16)).mean(axis=(0, 1, 2)) - wanted).max()
    assert before > 40 and after < 20


def test_an_image_depends_on_its_seed_alone():
    gan = build_dcgan(SIZE, width=4, seed=0)
    trained(gan, 3)
    together, alone = paint(gan, [5, 6, 7], batch=2), paint(gan, [6])
    assert together.shape == (3, SIZE, SIZE, 3) and together.dtype == np.uint8
    assert np.array_equal(together[1], alone[0]) and not np.array_equal(together[0], together[1])


def test_a_resumed_training_equals_an_uninterrupted_one():
    whole = build_dcgan(SIZE, width=4, seed=0)
    trained(whole, 4)
    killed = build_dcgan(SIZE, width=4, seed=0)
    state = next(s for s in train_dcgan(killed, coloured(), steps=4, seed=3, batch=8) if s.step == 2)
    kept = copy.deepcopy(state.state_dict())
    resumed = build_dcgan(SIZE, width=4, seed=9)
    torch.rand(5)
    assert len(trained(resumed, 4, resume=kept)) == 2
    for network in ("generator", "discriminator"):
        ours, theirs = (getattr(gan, network).state_dict() for gan in (resumed, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
