"""Models come from this machine: nothing is asked of another one. (`test_chain` says the same of a whole run.)"""

import urllib.request
from pathlib import Path

import pytest

from defect_pipeline.diffusion.backbone import load_backbone, load_pipeline
from defect_pipeline.evaluation.features import load_extractor
from defect_pipeline.recognition.classifier import PRETRAINED, build_classifier
from defect_pipeline.recognition.segmentor import build_segmentor
from defect_pipeline_tests.conftest import network_refused


def test_what_asks_another_machine_is_refused_and_seen() -> None:
    with network_refused() as asked, pytest.raises(OSError, match="refused"):
        urllib.request.urlopen("http://192.0.2.1/model.safetensors")  # an address that is for examples
    assert asked == ["192.0.2.1"]


def test_models_load_without_a_network(tiny_backbone: Path, tiny_stable_diffusion: Path) -> None:
    with network_refused() as asked:
        for directory in (tiny_backbone, tiny_stable_diffusion):
            load_backbone(directory).new_hypernetwork("zero")
            load_pipeline(directory)
        build_classifier(PRETRAINED, 2)
        build_classifier("resnet", 2)
        build_segmentor(2, 64, "efficientnet-lite0-pixels")
        build_segmentor(2, 64, "efficientnet-lite0")
        load_extractor("efficientnet-lite0")
    assert asked == []
