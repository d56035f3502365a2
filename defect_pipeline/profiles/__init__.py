"""Settings: a schema whose defaults are the papers' values, and profiles that name what differs, as TOML files.

A profile's file begins with ``base = "sd15"``, the name of a profile or another file, and names what differs from it.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ValidationError

from defect_pipeline.errors import PipelineError
from defect_pipeline.profiles.schema import (
    TABLE_I,
    Baselines,
    Concept,
    Downstream,
    Drivers,
    Filter,
    Hypernetwork,
    Masks,
    ModelFiles,
    Optimizer,
    Pool,
    Profile,
    Recognition,
    Segmentor,
    Splits,
    StableSDG,
    Synthesis,
    Thresholds,
    Tuning,
)

__all__ = [
    "EMBEDDED", "EMBEDDED_BACKBONE", "PROFILES", "SD15", "TABLE_I", "Baselines", "Concept", "Downstream", "Drivers", "Filter",
    "Hypernetwork", "Masks", "ModelFiles", "Optimizer", "Pool", "Profile", "Recognition", "Segmentor", "Splits", "StableSDG",
    "Synthesis", "Thresholds", "Tuning", "load_profile", "model_directories", "profile_from", "profile_label", "profile_table", "profile_toml",
]  # fmt: skip

HERE = Path(__file__).resolve().parent
EMBEDDED_BACKBONE = HERE.parent / "backbone"
PACKAGED = "embedded"  # the backbone that comes with the package, wherever it lies
BASE = "base"


# --- Reading -------------------------------------------------------------------------------------------------------


def load_profile(name: str | Profile, overrides: Sequence[str] = ()) -> Profile:
    """The profile of that name, or of that TOML file, with ``overrides`` such as "synthesis.steps=12".

    A profile that is at hand takes the place of the name.

    Raises PipelineError, which names the file and the setting, for a name that there is not, a value of another type or
    out of range, and a file that is none.
    """
    profile = _named(name) if isinstance(name, str) else name
    table: dict[str, Any] = {}
    for override in overrides:
        _join(table, _override(override))
    return _section(profile, table, f"--set {' '.join(overrides)}", "", joining=True)


def profile_from(table: Mapping[str, Any], *, base: Profile, where: str) -> Profile:
    """The base with what a nested ``table`` says in its place; ``where`` is named in errors (PipelineError)."""
    return _section(base, table, where, "")


def _override(text: str) -> dict[str, Any]:
    """NAME=VALUE as a nested table: the name as a TOML key, the value as TOML, else as it is."""
    name, equals, value = text.partition("=")
    try:
        table = tomllib.loads(f"{name.strip()} = 0") if equals and "\n" not in name else {}
    except tomllib.TOMLDecodeError:
        table = {}
    if not table:
        raise PipelineError(f"--set {text}: write NAME=VALUE, such as synthesis.steps=12.")
    inner: Any = table
    while inner[key := next(iter(inner))] != 0:
        inner = inner[key]
    inner[key] = _value(value.strip())
    return table


def _join(table: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Bring what another nested table says into a table, in place."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _join(table[key], value)
        else:
            table[key] = value


def _named(name: str, seen: tuple[Path, ...] = ()) -> Profile:
    if name in PROFILES:
        return PROFILES[name]
    file = Path(name)
    if file.suffix != ".toml" and not file.exists():
        raise PipelineError(
            f"There is no profile {name!r}; use one of {', '.join(PROFILES)}, or the path of a TOML file."
            + _nearest(name, PROFILES)
        )
    return _read(file.resolve(), seen)


def _read(file: Path, seen: tuple[Path, ...] = ()) -> Profile:
    if file in seen:
        raise PipelineError(
            f"{file} is its own base, by way of {', '.join(map(str, seen[1:])) or 'itself'}: name another."
        )
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # some editors begin a file with its encoding
    except OSError as error:
        raise PipelineError(
            f"The profile {file} cannot be read ({error.strerror}): name another with --profile."
        ) from error
    except ValueError as error:  # not TOML, or not even text
        raise PipelineError(f"The profile {file} is not TOML ({error}): correct it.") from error
    base = table.pop(BASE, None)
    if not isinstance(base, str):
        raise PipelineError(f'{file}: begin it with the profile that it differs from, such as base = "embedded".')
    beside = (file.parent / base).resolve()
    try:
        known = _named(base if base in PROFILES or not beside.is_file() else str(beside), (*seen, file))
    except PipelineError as error:
        raise error if seen else PipelineError(f"{file}, its base {base!r}: {error}") from error
    _relative_to(file.parent, table, Profile)
    return profile_from({"name": file.stem} | table, base=known, where=str(file))


def _relative_to(folder: Path, table: dict[str, Any], section: type) -> None:
    """Turn the model directories that a file names into absolute ones, in place."""
    for name, value in table.items():
        kind = get_type_hints(section).get(name)
        if isinstance(value, dict) and isinstance(kind, type) and is_dataclass(kind):
            _relative_to(folder, value, kind)
        elif name in model_directories(section) and isinstance(value, str) and value not in ("", PACKAGED):
            table[name] = str((folder / value).resolve())


def _value(text: str) -> Any:
    """What stands behind the equals sign, as TOML, else as it is."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _section(base: Any, table: Mapping[str, Any], where: str, above: str, *, joining: bool = False) -> Any:
    """A section with what a table says in its place; ``joining``, of single classes the others stay as they are."""
    known, given = {one.name: getattr(base, one.name) for one in fields(base)}, {}
    for name, value in table.items():
        dotted = f"{above}{name}"
        if name not in known:
            raise PipelineError(f"{where}: there is no setting {dotted!r}.{_nearest(name, known, above)}")
        old = known[name]
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                raise PipelineError(f"{where}: {dotted} is a section; write [{dotted}] and its settings below.")
            given[name] = _section(old, value, where, f"{dotted}.", joining=joining)
        elif isinstance(old, dict):
            if not isinstance(value, Mapping):
                raise PipelineError(f"{where}: {dotted} is no table; write [{dotted}.CLASS] and its settings below.")
            given[name] = _merged(old, value, joining=joining)
        else:
            given[name] = _tuples(value) if isinstance(old, tuple) else value
        if name in model_directories(type(base)) and given[name] == PACKAGED:
            given[name] = str(EMBEDDED_BACKBONE)
    try:
        return replace(base, **given)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        reason = found["msg"].replace("Input should", "it should")
        raise PipelineError(f"{where}: {above}{place} is {found['input']!r}; {reason}.") from error
    except PipelineError as error:
        raise PipelineError(f"{where}: {error}") from error


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], *, joining: bool) -> dict[str, Any]:
    """Of classes: a table of tables joins the one before, class by class, unless it is empty; another one replaces it,
    unless it is to be ``joining``."""
    if new and all(isinstance(value, Mapping) for value in new.values()):
        return {**old, **{k: {**old.get(k, {}), **value} for k, value in new.items()}}
    made = {k: _tuples(value) for k, value in new.items()}
    return {**old, **made} if joining and new else made


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _nearest(name: str, known: Mapping[str, Any] | Sequence[str], above: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {above}{near[0]}?" if near else ""


def model_directories(section: type) -> frozenset[str]:
    """The settings of a section that name a directory of model files."""
    if section not in _directories:
        hints = get_type_hints(section, include_extras=True)
        marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
        _directories[section] = frozenset(k for k, own in marks.items() if any(isinstance(m, ModelFiles) for m in own))
    return _directories[section]


_directories: dict[type, frozenset[str]] = {}


# --- Writing -------------------------------------------------------------------------------------------------------


def profile_table(profile: Any) -> dict[str, Any]:
    """A profile, or a section, as nested dicts, of which `profile_from` makes it again."""
    table: dict[str, Any] = {}
    for one in fields(profile):
        value = getattr(profile, one.name)
        if one.name in model_directories(type(profile)) and value:
            value = PACKAGED if value == str(EMBEDDED_BACKBONE) else str(Path(value).resolve())
        table[one.name] = profile_table(value) if is_dataclass(value) else value
    return table


def profile_toml(profile: Profile, *, diff: bool = False) -> str:
    """The profile as a file, each value below what it means; with ``diff`` only what differs from the papers' values."""
    papers = Profile()
    lines = [f'{BASE} = "{papers.name}"', "", *_lines(profile, papers if diff else None, "")]
    return "\n".join(lines) + "\n"


def _lines(section: Any, other: Any, above: str) -> list[str]:
    lines, below = [], []
    for one in fields(section):
        if f"{above}{one.name}" == "name":  # a file is called as it is
            continue
        value, before = getattr(section, one.name), getattr(other, one.name, None)
        if is_dataclass(value):
            if inner := _lines(value, before, f"{above}{one.name}."):
                below += ["", f"# {_first_line(type(value))}", f"[{above}{one.name}]", *inner]
        elif other is None or value != before:
            shown = profile_table(section)[one.name]
            lines += [f"# {meaning(type(section), one.name)}", f"{one.name} = {_toml(shown)}"]
    return lines + below


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {_toml(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)


def profile_label(profile: Profile) -> str:
    """What reports call it: its name, and whether settings were changed since."""
    known = PROFILES.get(profile.name)
    return profile.name if known in (None, profile) else f"{profile.name}, changed"


def meaning(section: type, name: str) -> str:
    """What a setting means: its docstring, on one line."""
    found: Any = section.__pydantic_fields__[name]  # type: ignore[attr-defined]
    return " ".join((found.description or "").split())


def _first_line(section: type) -> str:
    return (section.__doc__ or "").strip().split("\n")[0]


def settings_page() -> str:
    """docs/settings.md: every setting with the papers' value and the embedded profile's."""
    lines = [
        "# Settings",
        "",
        "A default is the papers' value, or a common one where they name none. `defect-pipeline profile show NAME` prints",
        "a profile as a file; `python -m defect_pipeline.profiles` writes this page.",
    ]

    def section(default: Any, embedded: Any, above: str) -> None:
        nonlocal lines
        rows, below = [], []
        for one in fields(default):
            value, other = getattr(default, one.name), profile_table(embedded)[one.name]
            if is_dataclass(value):
                below.append((value, getattr(embedded, one.name), f"{above}{one.name}."))
            elif f"{above}{one.name}" != "name":
                differs = f"`{_toml(other)}`" if profile_table(default)[one.name] != other else ""
                rows.append(
                    f"| `{one.name}` | `{_toml(value)}` | {differs} | {meaning(type(default), one.name)} |".replace(
                        "\\|", "|"
                    )
                )
        lines += ["", f"## `{above.rstrip('.')}`" if above else "## At the top", "", _paragraph(type(default))]
        lines += ["", "| setting | papers | embedded | meaning |", "|---|---|---|---|", *rows]
        for inner in below:
            section(*inner)

    section(Profile(), EMBEDDED, "")
    return "\n".join(lines) + "\n"


def _paragraph(section: type) -> str:
    return " ".join((section.__doc__ or "").split())


# --- The shipped ones ----------------------------------------------------------------------------------------------


def _shipped(name: str) -> Profile:
    """One of the package's, whose directories stay relative to the working directory."""
    file = HERE / f"{name}.toml"
    return profile_from(
        {"name": name} | tomllib.loads(file.read_text(encoding="utf-8")), base=Profile(), where=str(file)
    )


PROFILES: dict[str, Profile] = {}
EMBEDDED, SD15 = _shipped("embedded"), _shipped("sd15")
PROFILES |= {profile.name: profile for profile in (EMBEDDED, SD15, Profile())}
