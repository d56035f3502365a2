"""What an install brings along: everything that the package reads, so that it runs from any folder without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import defect_pipeline

PACKAGE = Path(defect_pipeline.__file__).parent
BUILT = "from setuptools import build_meta; build_meta.build_wheel({!r})"
LOADED = """
import defect_pipeline, defect_pipeline.definitions
from pathlib import Path
from defect_pipeline.profiles import load_profile
print(Path(defect_pipeline.__file__).parent, load_profile("embedded").backbone, sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, by setuptools as pip would ask it, which need not be there."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PACKAGE.parent / name, source)
    command = [sys.executable, "-c", BUILT.format(str(base))]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(base.glob("*.whl"))


def test_the_wheel_holds_every_file_that_lies_in_the_package(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(f"{PACKAGE.name}/")}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert inside == {path.relative_to(PACKAGE.parent).as_posix() for path in files}
    for name in (
        "automation/dagster.yaml",
        "backbone/tokenizer/merges.txt",
        "backbone/unet/diffusion_pytorch_model.safetensors",
        "summary/report.html",
    ):
        assert f"{PACKAGE.name}/{name}" in inside


def test_an_install_has_its_backbone_wherever_it_is_called_from(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)  # of a wheel without compiled code, pip does no more
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package, backbone = map(Path, done.stdout.splitlines()[-2:])
    assert package == installed / PACKAGE.name and backbone.parent == package
    assert (backbone / "unet" / "diffusion_pytorch_model.safetensors").is_file()
