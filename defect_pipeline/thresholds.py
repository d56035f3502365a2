"""The thresholds file: what a user's own CI asks of each class, in place of the profile's defaults."""

import math
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from defect_pipeline.errors import PipelineError
from defect_pipeline.profiles import Thresholds

PER_CLASS = "per_class"
LARGEST = {"copies": 1.0, "accepted": 1.0}  # shares; the others have no end
SMALLEST = {"kid": -math.inf}  # it is unbiased, so it may be negative; the others may not
NAMES = tuple(field.name for field in fields(Thresholds) if field.name != PER_CLASS)


def read_thresholds(file: Path, defaults: Thresholds) -> Thresholds:
    """The defaults, with what a TOML file says in their place: for all classes at its top, for one in [per_class.NAME].

    Raises PipelineError where the file cannot be read, or names what is no threshold, or gives it what cannot be one.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PipelineError(
            f"The thresholds file {file} cannot be read ({error.strerror}): name another with --thresholds."
        ) from error
    except ValueError as error:  # not TOML, or not even text
        raise PipelineError(f"The thresholds file {file} is not TOML ({error}): correct it.") from error
    classes = found.pop(PER_CLASS, {})
    if not isinstance(classes, dict):
        raise PipelineError(f"{file}: {PER_CLASS} is no table; write [{PER_CLASS}.NAME] above a class's thresholds.")
    per_class = dict(defaults.per_class)
    for name, own in classes.items():
        per_class[name] = per_class.get(name, {}) | _checked(file, own, f"{PER_CLASS}.{name}")
    return replace(defaults, **_checked(file, found), per_class=per_class)


def _checked(file: Path, found: Any, table: str = "") -> dict[str, float]:
    """One table of the file. Raises PipelineError where a name or a value is not a threshold's."""
    where = f"{file}, [{table}]" if table else str(file)
    if not isinstance(found, dict):
        raise PipelineError(f"{file}: {table} is no table; write [{table}] and its thresholds below.")
    for name, value in found.items():
        if name not in NAMES:
            raise PipelineError(f"{where}: there is no threshold {name!r}; use {', '.join(NAMES)}.")
        low, high = SMALLEST.get(name, 0.0), LARGEST.get(name, math.inf)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise PipelineError(f"{where}: {name} is {value!r}; it is a number from {low:g} to {high:g}.")
    return {name: float(value) for name, value in found.items()}
