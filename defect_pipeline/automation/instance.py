"""The Dagster instance beside a store: its history, pools and run monitoring."""

import os
import shutil
from pathlib import Path

import dagster as dg


def instance_home(store_root: Path) -> Path:
    """DAGSTER_HOME for a store, made ready; a dagster.yaml that is there already is the user's and stays."""
    home = store_root.resolve() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), home / "dagster.yaml")
    return home


def open_instance(store_root: Path) -> dg.DagsterInstance:
    """The instance of a store; the same history whether `run` or the UI asks."""
    os.environ["DAGSTER_HOME"] = str(instance_home(store_root))
    return dg.DagsterInstance.get()
