"""What a run works on: images, settings, seed, and what the user adds to the images."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from defect_pipeline.profiles import Profile


class Pipeline(BaseModel):
    """A Dagster resource, but none that the UI could change: what a store was made with, `run` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str  # folder of images
    settings: Profile
    seed: int = 0
    system: str = "sadf"  # by name, whose plan is run
    part_regex: str = ""  # its first group (or the one named "part") is a part's id within a file name
    drawn_masks: str = ""  # folder with one folder of hand-drawn masks for each class
    placement_maps: str = ""  # folder with a hand-drawn map for each class: the brighter, the likelier
    home: str = ""  # the folder of the store: data that lies in it moves with it

    @property
    def root(self) -> Path:
        return Path(self.data).resolve()

    @property
    def recorded_root(self) -> str:
        """The root as the store notes it: relative to `home` where the data lies in it, else absolute."""
        home = Path(self.home).resolve()
        inside = self.home and self.root.is_relative_to(home)
        return self.root.relative_to(home).as_posix() if inside else str(self.root)
