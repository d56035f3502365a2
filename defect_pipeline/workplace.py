"""Where a pipeline works: a store, and beside it a note of the data, settings and seed it was made with.

`run` writes the note; `ui`, `check` and a bare `dagster dev` read it, so that all of them speak of the same thing.
"""

import json
import logging
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defect_pipeline import imaging
from defect_pipeline.errors import PipelineError
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import EMBEDDED, Profile, load_profile, profile_from, profile_table
from defect_pipeline.store import Store, atomic_write

log = logging.getLogger("defect_pipeline")
STORE_VARIABLE = "DEFECT_PIPELINE_STORE"
DEFAULT_STORE = Path("data/store")
NOTE = "pipeline.json"


@dataclass(frozen=True)
class Workplace:
    """`store_root` a folder; `data` the images, "" for the sample that the project draws itself."""

    store_root: Path
    data: str = ""
    settings: Profile = EMBEDDED
    seed: int = 0
    system: str = "sadf"
    part_regex: str = ""
    drawn_masks: str = ""
    placement_maps: str = ""

    @classmethod
    def from_environment(cls) -> "Workplace":
        """The workplace that the store named by DEFECT_PIPELINE_STORE (data/store by default) was last used for."""
        return cls.at(Path(os.environ.get(STORE_VARIABLE, DEFAULT_STORE)))

    @classmethod
    def at(
        cls, store_root: Path, *, profile: str | None = None, overrides: Sequence[str] | None = None, **changes: Any
    ) -> "Workplace":
        """As the store's note says, with those ``changes`` that are not None.

        ``profile`` is a name or a file, in place of the settings that the store was made with; ``overrides`` change
        either. Raises PipelineError for a damaged note, and as `load_profile` does.
        """
        root = store_root.resolve()
        known = _read_note(root)
        if profile is not None:
            known["settings"] = load_profile(profile)
        known["settings"] = load_profile(known.get("settings", EMBEDDED), overrides or ())
        return cls(root, **(known | {name: value for name, value in changes.items() if value is not None}))

    @property
    def store(self) -> Store:
        return Store(root=str(self.store_root))

    @property
    def data_root(self) -> Path:
        return Path(self.data).resolve() if self.data else self.store_root / "sample"

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(
            data=str(self.data_root), settings=self.settings, seed=self.seed, system=self.system,
            part_regex=self.part_regex, drawn_masks=self.drawn_masks, placement_maps=self.placement_maps,
            home=str(self.store_root),
        )  # fmt: skip

    def open(self) -> None:
        """Make it ready for a run: draw the sample where no data is named, and write the note.

        Raises PipelineError when the data folder does not exist, the part regex is none, or the store cannot be made.
        """
        if self.part_regex:
            imaging.groups.part_ids_of([], self.part_regex)
        try:
            self.store_root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError, PermissionError) as error:
            raise PipelineError(
                f"{self.store_root} cannot be a store ({error.strerror}); name another folder with --store."
            ) from error
        if not self.data and not (self.data_root / "annotations.json").exists():
            imaging.sample.make_sample(self.data_root)
        if not self.data_root.is_dir():
            raise PipelineError(f"There is no folder {self.data_root}; name the folder of your images with --data.")
        note = {
            "data": self.pipeline.recorded_root if self.data else "", "settings": profile_table(self.settings),
            "seed": self.seed, "system": self.system, "part_regex": self.part_regex, "drawn_masks": self.drawn_masks,
            "placement_maps": self.placement_maps,
        }  # fmt: skip
        atomic_write(self.store_root / NOTE, json.dumps(note, indent=2).encode())


def _read_note(root: Path) -> dict[str, Any]:
    """What a store was made with, by the names of `Workplace`'s fields; nothing where there is no note."""
    note = root / NOTE
    try:
        found: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
        if not isinstance(found, dict):
            raise TypeError("it holds no settings")
        if "profile" in found:
            found["settings"] = _settings_of_before(found.pop("profile"), found.pop("thresholds", ""))
        elif "settings" in found:
            found["settings"] = profile_from(dict(found["settings"]), base=Profile(), where=str(note))
        if found.get("data"):
            found["data"] = str(root / found["data"])  # relative where it lies in the store
        _ = Workplace(root, **found).pipeline  # which looks at the types
        return found
    except (ValueError, TypeError) as error:  # no JSON, or other names than ours
        raise PipelineError(
            f"{note} cannot be read ({error}): remove it, and run again with --data, --profile and what else was chosen."
        ) from error


def _settings_of_before(profile: str, thresholds: str) -> Profile:
    """Of a note of version 0.1.0: the name of a profile, and a file of thresholds."""
    log.warning("The store is of an earlier version: a run makes all stages anew. The split of the images stays.")
    try:
        changed = tomllib.loads(Path(thresholds).read_text(encoding="utf-8")) if thresholds else {}
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"The thresholds of the store, {thresholds}, cannot be read ({error}): restore the file."
        ) from error
    return profile_from({"thresholds": changed}, base=load_profile(profile), where=thresholds)
