"""Modules that load when they are first named: torch and what stands on it take longer to load than most commands to run.

After `from defect_pipeline import diffusion`, a call of `diffusion.sampling.sample_images(...)` loads the module, as with
scipy's subpackages. `from defect_pipeline.diffusion.sampling import sample_images` loads it at once: right within the
methods, not in what Dagster loads to show its assets.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any


def submodules(package: str) -> Callable[[str], ModuleType]:
    """A package's `__getattr__` (PEP 562) that imports the submodule of the name."""

    def load(name: str) -> ModuleType:
        if find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return load


class _Later(ModuleType):
    """Stands for a module that loads when something in it is asked for, be it by an annotation that is evaluated."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas as pd
else:
    pd = _Later("pandas")  # takes nearly as long as Dagster
