"""What the benchmarks read from a training that runs as a process of its own, and where they say its time goes."""

import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from defect_pipeline.errors import PipelineError
from defect_pipeline_tests.benchmarks.__main__ import measured
from defect_pipeline_tests.benchmarks.case import OURS, Case
from defect_pipeline_tests.benchmarks.machine import in_products
from defect_pipeline_tests.benchmarks.processes import apart, watch
from defect_pipeline_tests.benchmarks.timing import Row

BAR = """
import sys, time
sys.stderr.write("Steps:   0%|          | 0/4 [00:00<?, ?it/s]")
for step, loss in enumerate(("0.9", "1e-3", "nan", "0.25"), start=1):
    time.sleep(0.1)
    sys.stderr.write(f"\\rSteps:  50%|█████     | {step}/4 [00:01<00:01,  1.00s/it, step_loss=")
    sys.stderr.flush()
    sys.stderr.write(f"{loss}, lr=1e-05]")
    sys.stderr.flush()
"""


def test_the_steps_after_the_first_are_timed_with_their_losses_and_the_rest_is_cut_short():
    found = watch([sys.executable, "-c", f"{BAR}\ntime.sleep(600)"], steps=4, first=2, environment={})
    assert 0.2 <= found.seconds < 60
    assert found.losses == pytest.approx([float("nan"), 0.25], nan_ok=True)
    if sys.platform == "linux":
        assert 2**20 < found.memory < 2**30


def test_one_that_ends_too_early_says_what_it_said():
    with pytest.raises(PipelineError, match=r"ended before step 5: .*no such image"):
        watch([sys.executable, "-c", f"{BAR}\nsys.exit('no such image')"], steps=5, first=2, environment={})


def test_a_call_apart_is_told_its_time_and_the_memory_that_it_held():
    took, held = apart(partial(bytearray, 300 * 2**20))
    assert 0 < took < 60
    if sys.platform == "linux":
        assert 300 * 2**20 < held < 2**32


def test_products_and_convolutions_take_their_share_of_the_time_and_the_rest_does_not() -> None:
    layer, images, matrix = nn.Conv2d(16, 16, 3), torch.rand(4, 16, 64, 64), torch.rand(512, 512)
    learning, product = (lambda: layer(images).sum().backward()), (lambda: matrix @ matrix)
    for call in (learning, product):
        assert 0.2 < in_products(lambda call=call: [call() for _ in range(20)]) <= 1
    assert in_products(lambda: (matrix.exp(), time.sleep(0.1))) < 0.01


def test_a_row_that_fails_does_not_cost_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(repeats: int) -> Row:
        raise AssertionError(f"the images differ in {repeats} repeats")

    rows = {"wrong": failing, "right": lambda repeats: Row("product", 1, [1.0] * repeats, [2.0], "another", flops=10)}
    (row,), failed = measured(["wrong", "right", "absent"], rows, 3, Case())
    assert failed and row.ratio == 2 and 0 < row.share < 1e-6
    said = capsys.readouterr().err
    assert "wrong failed: AssertionError: the images differ in 3 repeats" in said and "Skipped: absent" in said


def test_a_case_tells_whose_classes_its_backbone_is_of(tiny_backbone: Path, tiny_stable_diffusion: Path) -> None:
    assert [Case(tiny_backbone).ours(part) for part in OURS] == [True, False]
    assert [Case().ours(part) for part in OURS] == [True, True]
    assert not any(Case(tiny_stable_diffusion).ours(part) for part in OURS)
    backbone, hypernetwork = Case(tiny_stable_diffusion, size=64).generator()
    assert backbone.directory == tiny_stable_diffusion and not any(
        layer.weight.any() for layer in hypernetwork.controlnet_down_blocks
    )  # it has none of its own
