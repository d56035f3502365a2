"""A run killed in the middle of any stage: nothing half-made is taken for whole, and the same command finishes the work.

Each kill happens while a file is being written: half of it stays, as it would. The killed process is forked from a server
that has imported everything and computed nothing, so no thread of torch or OpenCV is lost in the fork.
"""

import fnmatch
import itertools
import json
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from defect_pipeline import profiles
from defect_pipeline.cli import main
from defect_pipeline.diffusion import training
from defect_pipeline.errors import PipelineError
from defect_pipeline.recognition import classifier, learning, segmentor
from defect_pipeline.store import Artifact, Store
from defect_pipeline.systems import SYSTEMS
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import stage_named, tiny, write_component

server = multiprocessing.get_context("forkserver")
OF_THIS_PROCESS = {"seconds", "images per second", "loss", "painted now"}  # metadata; so is the loss curve
METHODS = (  # which the definitions do not load
    "defect_pipeline.diffusion.lora", "defect_pipeline.diffusion.adapters", "defect_pipeline.diffusion.token",
    "defect_pipeline.evaluation.features", "defect_pipeline.generator.watching", "defect_pipeline.imaging.augment", "defect_pipeline.imaging.descriptions",
)  # fmt: skip
SHORT = 2  # steps from one checkpoint of a segmentor or classifier to the next
REUSED = 7  # an exit code


@dataclass(frozen=True)
class Kill:
    """Death while `writer` writes a file of this name for the n-th time; what is left for the next run to do."""

    stage: str
    writer: str
    file: str
    nth: int = 1
    steps: tuple[int, ...] = ()  # of a training
    images: int | None = None  # to be painted

    @property
    def partition(self) -> str | None:
        return "alpha" if stage_named(self.stage).partitioned else None

    @property
    def system(self) -> str:
        """The first that has the stage."""
        return next(system.name for system in SYSTEMS if self.stage in [one.name for one in system.stages])


TEXT, BYTES = "pathlib.Path.write_text", "pathlib.Path.write_bytes"
TENSORS = "defect_pipeline.checkpoints._save"
CHECKPOINT = (TENSORS, ".checkpoint.safetensors.*", 2)  # the first was at step 10
KILLS = [
    Kill("inspection_images", TEXT, "annotations.json"),
    Kill("defect_free_pool", BYTES, "0001_01.png"),
    Kill("mask_bank", BYTES, "masks on the pool.png"),
    Kill("topological_drivers", BYTES, "0001.driver.png"),  # one for synthesis
    Kill("concept_weights", *CHECKPOINT, steps=tuple(range(11, 23))),
    Kill("hypernetwork_weights", *CHECKPOINT, steps=tuple(range(11, 23))),
    Kill("sadf_images", BYTES, "*0002_00.png*", images=2),  # the first of the second batch, maybe under a passing name
    Kill("faithfulness_report", BYTES, "*0002_00.png*", images=2),
    Kill("copy_report", TEXT, "report.json"),
    Kill("sadf_accepted", TEXT, "annotations.json"),
    Kill("sadf_coco", "shutil.copyfile", "1_0001_00.png"),
    Kill("fid_report", TEXT, "report.json"),
    Kill(
        "segmentor", TENSORS, ".synthetic.0.safetensors.*", 2, steps=(3, 4, 1, 2, 1, 2)
    ),  # synthetic, synthetic_then_real
    Kill("class_report", TEXT, "report.json"),
    Kill("segmentation_report", TEXT, "report.json"),
    Kill("token_embedding", *CHECKPOINT, steps=tuple(range(11, 23))),
    Kill("lora_weights", *CHECKPOINT, steps=tuple(range(11, 23))),
    Kill("strength_and_guidance", TEXT, "report.json"),
    Kill("stablesdg_images", BYTES, "*0004.png*"),  # the first of the second batch, under a passing name
    Kill("stablesdg_copy_report", TEXT, "report.json"),
    Kill("stablesdg_fid_report", TEXT, "report.json"),
    Kill("recognizer", TENSORS, ".squeezenet real.safetensors.*", 2, steps=(3, 4, 1, 2, 3, 4)),  # real, both
    Kill("recognition_report", TEXT, "report.json"),
    Kill("union_canvases", "shutil.copyfile", "*.png"),
    Kill("union_weights", *CHECKPOINT, steps=tuple(range(11, 23))),
    Kill("union_images", BYTES, "*0002_00.png*", images=2),
    Kill("union_faithfulness_report", BYTES, "*0002_00.png*", images=2),
]  # the union's other stages are the first system's, with other parents


@pytest.fixture(scope="module")
def profile(tiny_backbone: Path) -> Iterator[profiles.Profile]:
    """Trainings of two checkpoints and a rest, three drivers a class, and as many threads here as in the killed process."""
    made = replace(
        tiny("killed", tiny_backbone, steps=22, segmentor_steps=4),
        stablesdg=replace(profiles.EMBEDDED.stablesdg,
            token_steps=22, steps=22, batch=2, images=6, solver_steps=2,
            tune=True, tuning=profiles.Tuning(strengths=(0.5,), guidances=(1.0, 2.0), images=2),
        ),
        recognition=profiles.Recognition(models=("squeezenet",), steps=4, batch=4),
    )  # fmt: skip
    threads = torch.get_num_threads()
    _adopt(made)
    yield made
    torch.set_num_threads(threads)
    del profiles.PROFILES["killed"]


@pytest.fixture(scope="module")
def whole(profile: profiles.Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run of each system that nobody interrupted. The server imports meanwhile."""
    server.set_forkserver_preload([__name__, "defect_pipeline.definitions", "defect_pipeline.summary", *METHODS])
    forkserver.ensure_running()
    base = tmp_path_factory.mktemp("whole")
    write_component(base / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "CHECKPOINT_STEPS", SHORT)
        command = ["run", "--data", str(base / "data"), "--store", str(base / "store"), "--profile", profile.name]
        for system in SYSTEMS:
            assert main([*command, "--system", system.name]) == 0
    return base / "store"


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.stage)
def test_a_killed_run_is_finished_by_the_next_as_if_nothing_had_been(
    kill: Kill, whole: Path, profile: profiles.Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Store(root=str(whole)).current(kill.stage, kill.partition)
    store = _copy_without(expected, whole, tmp_path / "store")

    process = server.Process(target=_run_and_die, args=(store.root, profile, kill))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    home = Path(store.root) / kill.stage / (kill.partition or "all")
    assert [path.suffix for path in home.iterdir()] == [".tmp"]
    assert store.find(kill.stage, expected.digest, kill.partition) is None
    assert (kill.partition or "all") not in store.partitions(kill.stage)
    with pytest.raises(PipelineError, match=f"no {kill.stage}"):
        store.current(kill.stage, kill.partition)

    steps = _watch_trainings(monkeypatch)
    assert main(["run", "--store", store.root, "--system", kill.system]) == 0
    made = store.current(kill.stage, kill.partition)
    if kill.stage == "segmentation_report":  # OpenCV does not promise the last bit of a distance
        _assert_nearly(made, expected)
    else:
        assert _content(made) == _content(expected)
    assert tuple(steps) == kill.steps
    assert made.metadata.get("painted now") == kill.images
    assert sorted(path.name for path in home.iterdir()) == sorted([expected.digest, "current.json"])
    assert not list((Path(store.root) / "work" / kill.stage).glob(f"*/{expected.digest}"))


def test_two_runs_of_one_partition_at_once_both_end_well(
    whole: Path, profile: profiles.Profile, tmp_path: Path
) -> None:
    """The one waits for the other's place on the GPU, and takes what it then finds."""
    expected = Store(root=str(whole)).current("lora_weights", "alpha")
    store = _copy_without(expected, whole, tmp_path / "store")
    assert _two_at_once(_run_beside_another, store.root, profile) == [0, 0]
    made = store.current("lora_weights", "alpha")
    assert _content(made) == _content(expected)
    assert sorted(path.name for path in made.path.parent.iterdir()) == sorted([expected.digest, "current.json"])


def _two_at_once(target: Callable[..., None], store: str, profile: profiles.Profile) -> list[int]:
    """The exit codes of two processes that begin together."""
    start = server.Barrier(2)
    both = [server.Process(target=target, args=(store, profile, start)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    return [process.exitcode for process in both]


def _run_beside_another(store: str, profile: profiles.Profile, start: Any) -> None:
    _adopt(profile)
    start.wait()
    sys.exit(main(["run", "--store", store, "--system", "stablesdg"]))


def test_of_two_that_make_the_same_at_once_the_second_takes_what_the_first_has_made(
    whole: Path, profile: profiles.Profile, tmp_path: Path
) -> None:
    expected = Store(root=str(whole)).current("sadf_images", "alpha")
    store = _copy_without(expected, whole, tmp_path / "store")
    assert sorted(_two_at_once(_make_beside_another, store.root, profile)) == [0, REUSED]
    assert _content(store.current("sadf_images", "alpha")) == _content(expected)


def _make_beside_another(store: str, profile: profiles.Profile, start: Any) -> None:
    """Without Dagster, hence without its pool."""
    _adopt(profile)
    place = Workplace.at(Path(store))
    place.open()
    start.wait()
    _, reused = stage_named("sadf_images").materialize(place.store, place.pipeline, "alpha")
    sys.exit(REUSED if reused else 0)


def _run_and_die(store: str, profile: profiles.Profile, kill: Kill) -> None:
    """In the forked process: the run, until the kill. Returns where the file in question is never written."""
    _adopt(profile)
    learning.CHECKPOINT_STEPS = SHORT
    place, _, name = kill.writer.rpartition(".")
    owner = pkgutil.resolve_name(place)
    write, count = getattr(owner, name), itertools.count(1)

    def dying(*arguments: Any, **named: Any) -> Any:
        done = write(*arguments, **named)
        file = [argument for argument in arguments if isinstance(argument, Path)][-1]
        if fnmatch.fnmatch(file.name, kill.file) and next(count) == kill.nth:
            os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, dying)
    main(["run", "--store", store, "--system", kill.system])


def _adopt(profile: profiles.Profile) -> None:
    torch.set_num_threads(1)  # sums of other threads may differ in the last bit
    profiles.PROFILES[profile.name] = profile


def _copy_without(artifact: Artifact, source: Path, target: Path) -> Store:
    """A store of all but this artifact. What Dagster writes in place is copied, all else linked."""
    gone = artifact.path.parent

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) / name in (gone, source / "dagster")]

    shutil.copytree(source, target, copy_function=os.link, ignore=ignored)
    shutil.copytree(source / "dagster", target / "dagster")
    return Store(root=str(target))


def _content(artifact: Artifact) -> dict[str, Any]:
    """What an artifact holds whoever made it: hashes of its files, its parents, its figures."""
    files = json.loads((artifact.path / "manifest.json").read_text())["files"]
    figures = {name: value for name, value in artifact.metadata.items() if name not in OF_THIS_PROCESS}
    hashes = {name: entry["sha256"] for name, entry in files.items() if name != "pictures/loss.png"}
    return {"digest": artifact.digest, "parents": artifact.parents, "figures": figures, "files": hashes}


def _assert_nearly(made: Artifact, expected: Artifact) -> None:
    ours, theirs = _content(made), _content(expected)
    assert (ours["digest"], ours["parents"], ours["files"].keys()) == (
        theirs["digest"], theirs["parents"], theirs["files"].keys(),
    )  # fmt: skip
    for one, other in zip(made.metadata["figures"], expected.metadata["figures"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def _watch_trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that any training makes from now on."""
    steps: list[int] = []

    def watched(loop):
        def wrapped(*arguments: Any, **named: Any) -> Iterator[Any]:
            for state in loop(*arguments, **named):
                steps.append(state.step)
                yield state

        return wrapped

    monkeypatch.setattr(training, "training_loop", watched(training.training_loop))
    monkeypatch.setattr(segmentor, "train_segmentor", watched(segmentor.train_segmentor))
    monkeypatch.setattr(classifier, "train_classifier", watched(classifier.train_classifier))
    return steps
