"""Where a pipeline works: a store, and beside it a note of the data, profile and seed it was made with.

`run` writes the note; `ui`, `check` and a bare `dagster dev` read it, so that all of them speak of the same thing.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from defect_pipeline import imaging
from defect_pipeline.assets.stage import Pipeline
from defect_pipeline.errors import PipelineError
from defect_pipeline.store import Store, atomic_write

STORE_VARIABLE = "DEFECT_PIPELINE_STORE"
DEFAULT_STORE = Path("data/store")
NOTE = "pipeline.json"


@dataclass(frozen=True)
class Workplace:
    """`store_root` a folder; `data` the images, "" for the sample that the project draws itself."""

    store_root: Path
    data: str = ""
    profile: str = "embedded"
    seed: int = 0
    system: str = "sadf"
    part_regex: str = ""
    drawn_masks: str = ""
    placement_maps: str = ""
    thresholds: str = ""

    @classmethod
    def from_environment(cls) -> "Workplace":
        """The workplace that the store named by DEFECT_PIPELINE_STORE (data/store by default) was last used for."""
        return cls.at(Path(os.environ.get(STORE_VARIABLE, DEFAULT_STORE)))

    @classmethod
    def at(cls, store_root: Path, **changes: object) -> "Workplace":
        """As the store's note says, with those ``changes`` that are not None. Raises PipelineError for a damaged note."""
        root = store_root.resolve()
        note = root / NOTE
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            known = json.loads(note.read_text()) if note.exists() else {}
            place = cls(root, **(known | given))
            if "data" in given or not place.data:
                return place
            return replace(place, data=str(root / place.data))  # relative where it lies in the store
        except (ValueError, TypeError) as error:  # no JSON, or other names than ours
            raise PipelineError(
                f"{note} cannot be read ({error}): remove it, and run again with --data, --profile and what else was chosen."
            ) from error

    @property
    def store(self) -> Store:
        return Store(root=str(self.store_root))

    @property
    def data_root(self) -> Path:
        return Path(self.data).resolve() if self.data else self.store_root / "sample"

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(
            data=str(self.data_root), profile=self.profile, seed=self.seed, system=self.system,
            part_regex=self.part_regex, drawn_masks=self.drawn_masks, placement_maps=self.placement_maps,
            thresholds=str(Path(self.thresholds).resolve()) if self.thresholds else "", home=str(self.store_root),
        )  # fmt: skip

    def open(self) -> None:
        """Make it ready for a run: draw the sample where no data is named, and write the note.

        Raises PipelineError when the data folder or the profile does not exist, the thresholds are not valid, or the
        store cannot be made.
        """
        pipeline = self.pipeline
        _ = pipeline.settings  # whether they can be read
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
        note = asdict(self) | {"data": pipeline.recorded_root if self.data else "", "thresholds": pipeline.thresholds}
        del note["store_root"]
        atomic_write(self.store_root / NOTE, json.dumps(note, indent=2).encode())
