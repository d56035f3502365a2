"""What a reader declares of the settings, is handed, and depends on: nothing else of them can be reached."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import isfunction
from pathlib import Path
from typing import Any

from defect_pipeline.files import directory_digest
from defect_pipeline.profiles import Thresholds, model_directories

MACHINE = ("name", "device", "compiled")  # where and how fast something is computed, not what comes out


class UndeclaredError(LookupError):
    """A stage asked for a setting that it does not declare: a mistake in the stage, not of the user."""


class Declared:
    """Stands for a section of the settings, of which only the declared names can be read.

    ``names`` are dotted: "drivers" declares a whole section, "drivers.size" one value of it. Methods of the section work
    as far as they read nothing else. `MACHINE` can be read by all.
    """

    def __init__(self, value: object, names: Sequence[str], reader: str) -> None:
        self.__dict__.update(_value=value, _names=tuple(names), _reader=reader)

    def __getattr__(self, name: str) -> Any:
        value, names, own = self._value, self._names, getattr(type(self._value), name, None)
        if isfunction(own):
            return partial(own, self)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if name in names or name in MACHINE:
            return getattr(value, name)
        if below := [n.removeprefix(f"{name}.") for n in names if n.startswith(f"{name}.")]:
            return Declared(getattr(value, name), below, self._reader)
        if name == "per_class" and isinstance(value, Thresholds):
            return {k: {n: v for n, v in own.items() if n in names} for k, own in value.per_class.items()}
        raise UndeclaredError(f"{self._reader} reads {type(value).__name__}.{name}, which it does not declare")


def declared_values(value: object, names: Sequence[str], *, weights: bool = True) -> dict[str, Any]:
    """What a digest covers of the settings: each declared name with its value.

    A model directory counts by its content, for its name says nothing of the weights in it; without ``weights`` by its
    name, which is known at once.
    """

    def at(owner: Any, name: str) -> Any:
        head, _, rest = name.partition(".")
        found = getattr(owner, head)
        if not rest:
            return plain(owner, head, found)
        return found.over_classes(rest) if isinstance(found, Thresholds) else at(found, rest)

    def plain(owner: object, name: str, found: Any) -> Any:
        if is_dataclass(found):
            return {field.name: plain(found, field.name, getattr(found, field.name)) for field in fields(found)}
        if weights and found and name in model_directories(type(owner)):
            return directory_digest(Path(found)) if Path(found).is_dir() else f"missing {found}"
        return found

    return {name: at(value, name) for name in sorted(names)}
