"""The artifact store: what is there is whole, whoever was killed, was second or had a full disk."""

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from upath import UPath

from defect_pipeline import store as module
from defect_pipeline.errors import PipelineError
from defect_pipeline.processes import began, has_ended
from defect_pipeline.store import STALE_SECONDS, Store, atomic_write, digest_of, temporary, this_process

AWKWARD = ["../x", "a/b", "a b", "Kratzer ä", "裂纹", "..", ".", "100%", "a%2Fb", "MT_Crack"]
forked = multiprocessing.get_context("fork")


@pytest.fixture(params=["local", "url", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    roots = {"local": str(tmp_path / "store"), "url": f"file://{tmp_path}/store", "memory": f"memory://{tmp_path.name}"}
    return Store(root=roots[request.param])


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(root=str(tmp_path))


def make(
    store: Store, asset: str = "weights", digest: str = "d1", partition: str | None = None, text: str = "x"
) -> None:
    with store.create(asset, digest, partition) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "a.txt").write_text(text)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial")))


# --- digests ----------------------------------------------------------------------------------------


def test_digest_depends_on_every_part_and_not_on_the_order_of_keys() -> None:
    @dataclass(frozen=True)
    class Settings:
        steps: int
        folder: Path

    same = digest_of("a", {"x": 1, "y": [0.1, None]}, Settings(3, Path("p/q")))
    assert same == digest_of("a", {"y": [0.1, None], "x": 1}, Settings(3, Path("p/q")))
    assert len(same) == 16 and int(same, 16) >= 0
    others = [
        digest_of("b", {"x": 1, "y": [0.1, None]}, Settings(3, Path("p/q"))),
        digest_of("a", {"x": 1, "y": [0.1 + 1e-16, None]}, Settings(3, Path("p/q"))),
        digest_of("a", {"x": 1, "y": [0.1, None]}, Settings(4, Path("p/q"))),
        digest_of("a", {"x": 1, "y": [0.1, None]}, Settings(3, Path("p"))),
    ]
    assert len({same, *others}) == 5
    assert digest_of(1) == "080a9ed428559ef6"  # of "[1]": a store outlives the version of the program
    with pytest.raises(TypeError, match="set"):
        digest_of({1, 2})


# --- making and finding -----------------------------------------------------------------------------


def test_an_artifact_comes_back_as_it_was_made(store: Store) -> None:
    with store.create("weights", "d1", "crack", parents={"images": "d0"}) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "a.txt").write_text("abc")
        (draft.path / "empty").touch()
        draft.metadata["loss"] = 0.1
    found = store.find("weights", "d1", "crack")
    assert found is not None
    assert (found.asset, found.partition, found.digest) == ("weights", "crack", "d1")
    assert found.metadata == {"loss": 0.1} and found.parents == {"images": "d0"}
    assert (found.path / "sub" / "a.txt").read_text() == "abc" and (found.path / "empty").exists()
    entry = json.loads((found.path / "manifest.json").read_text())["files"]["sub/a.txt"]
    assert entry == {"size": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert store.current("weights", "crack") == found
    assert store.find("weights", "d2", "crack") is None and store.find("weights", "d1") is None


def test_the_current_artifact_is_the_one_made_or_confirmed_last(store: Store) -> None:
    with pytest.raises(PipelineError, match="no weights.*defect-pipeline run"):
        store.current("weights")
    make(store, digest="d1")
    make(store, digest="d2")
    assert store.current("weights").digest == "d2"
    first = store.find("weights", "d1")
    assert first is not None
    store.set_current(first)
    assert store.current("weights").digest == "d1"
    with pytest.raises(PipelineError, match="'pit'"):
        store.current("weights", "pit")


@pytest.mark.parametrize("partition", AWKWARD)
def test_a_class_name_is_one_folder_whatever_it_says(tmp_path: Path, partition: str) -> None:
    store = Store(root=str(tmp_path / "store"))
    make(store, partition=partition)
    store.workdir("weights", "d2", partition)
    assert store.partitions("weights") == [partition]
    assert store.current("weights", partition).path.parent.parent == tmp_path / "store" / "weights"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(list((tmp_path / "store" / "work" / "weights").iterdir())) == 1


def test_partitions_of_any_root(store: Store) -> None:
    assert store.partitions("weights") == []
    for partition in AWKWARD:
        make(store, partition=partition)
    make(store, asset="report")
    assert store.partitions("weights") == sorted(AWKWARD)
    assert store.partitions("report") == ["all"]


def test_an_exception_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KeyError), store.create("weights", "d1") as draft:
        (draft.path / "a.txt").write_text("x")
        raise KeyError
    assert store.find("weights", "d1") is None and store.partitions("weights") == []
    assert left_over(tmp_path) == []


def test_the_first_of_two_wins_and_both_end_well(store: Store) -> None:
    with store.create("weights", "d1") as second:
        (second.path / "a.txt").write_text("second")
        with store.create("weights", "d1") as first:
            (first.path / "a.txt").write_text("first")
    assert (store.current("weights").path / "a.txt").read_text() == "first"


def test_a_remote_artifact_is_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = Store(root=f"memory://{tmp_path.name}")
    make(store, text="abc")
    remote = UPath(store.root) / "weights" / "all" / "d1" / "sub" / "a.txt"
    remote.write_text("abd")  # of the same size
    with pytest.raises(PipelineError, match="spoiled"):
        store.find("weights", "d1")
    remote.write_text("abc")
    path = store.current("weights").path
    remote.write_text("abd")
    assert store.current("weights").path == path
    assert (path / "sub" / "a.txt").read_text() == "abc"


# --- what hands do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["longer", "missing", "no json", "other json", "other format", "no manifest"])
def test_a_directory_changed_by_hand_counts_as_missing_and_is_made_again(
    store: Store, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(store)
    directory = UPath(store.root) / "weights" / "all" / "d1"
    file, manifest = directory / "sub" / "a.txt", directory / "manifest.json"
    content = manifest.read_text()
    {
        "longer": lambda: file.write_text("longer"),
        "missing": file.unlink,
        "no json": lambda: manifest.write_text("{"),
        "other json": lambda: manifest.write_text("[]"),
        "other format": lambda: manifest.write_text(content.replace('"format": 1', '"format": 99')),
        "no manifest": manifest.unlink,
    }[harm]()
    with caplog.at_level(logging.WARNING, "defect_pipeline"):
        assert store.find("weights", "d1") is None
    assert ("d1" in caplog.text) == (harm != "no manifest")
    assert store.partitions("weights") == []
    with pytest.raises(PipelineError):
        store.current("weights")
    make(store, text="again")
    assert (store.current("weights").path / "sub" / "a.txt").read_text() == "again"
    assert sorted(child.name for child in directory.parent.iterdir()) == ["current.json", "d1"]


def test_a_file_of_other_content_but_the_same_size_and_time_is_noticed_too(
    local: Store, caplog: pytest.LogCaptureFixture
) -> None:
    make(local, text="abc")
    file = local.current("weights").path / "sub" / "a.txt"
    times = file.stat()
    file.write_text("abd")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert local.find("weights", "d1") is None and "sub/a.txt" in caplog.text
    make(local, text="abc")
    assert (local.current("weights").path / "sub" / "a.txt").read_text() == "abc"


def test_content_is_read_once_in_a_process(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    whole = module.file_sha256

    def counting(path: Path) -> str:
        read.append(path.name)
        return whole(path)

    make(local)
    monkeypatch.setattr(module, "file_sha256", counting)
    for _ in range(3):
        assert local.current("weights").digest == "d1" and local.partitions("weights") == ["all"]
    assert read == ["a.txt"]


@pytest.mark.parametrize("pointer", ["", "[]", "{}", '{"digest": 1.5}', '{"digest": "../../d1"}', "\xff"])
def test_a_pointer_that_cannot_be_read_is_none(local: Store, pointer: str) -> None:
    make(local)
    (Path(local.root) / "weights" / "all" / "current.json").write_bytes(pointer.encode("latin-1"))
    assert local.partitions("weights") == [] and local.since("weights") == ""
    with pytest.raises(PipelineError, match="no weights"):
        local.current("weights")
    make(local)
    assert local.current("weights").digest == "d1"


def test_foreign_files_are_left_alone(local: Store) -> None:
    make(local)
    before, home = local.current("weights"), Path(local.root) / "weights"
    notes = [
        home / "notes.txt",
        home / "all" / "notes.txt",
        home / "all" / "d1" / "notes.txt",
        home / "mine" / "a" / "x",
    ]
    for note in notes:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("mine")
    assert local.current("weights") == before and local.partitions("weights") == ["all"]
    make(local, digest="d2")
    assert local.current("weights").digest == "d2" and all(note.read_text() == "mine" for note in notes)


# --- killed processes -------------------------------------------------------------------------------


def _killed_while_filling(store: Store) -> None:
    with store.create("weights", "d1") as draft:
        (draft.path / "a.txt").write_text("half")
        (store.workdir("weights", "d1") / "checkpoint").write_text("step 3")
        os.kill(os.getpid(), signal.SIGKILL)


def _killed_before_the_rename(store: Store) -> None:
    module._rename = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
    make(store)


def _killed_before_the_pointer(store: Store) -> None:
    module.Store._point = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    make(store)


@pytest.mark.parametrize("death", [_killed_while_filling, _killed_before_the_rename])
def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(local: Store, death) -> None:
    process = forked.Process(target=death, args=(local,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert local.find("weights", "d1") is None and local.partitions("weights") == []
    assert len(left_over(Path(local.root))) == 1
    make(local, text="whole")
    assert (local.current("weights").path / "sub" / "a.txt").read_text() == "whole"
    assert left_over(Path(local.root)) == []


def test_an_artifact_that_was_finished_before_the_kill_is_found(local: Store) -> None:
    process = forked.Process(target=_killed_before_the_pointer, args=(local,))
    process.start()
    process.join()
    found = local.find("weights", "d1")
    assert found is not None and local.partitions("weights") == []
    local.set_current(found)
    assert local.current("weights") == found


def test_checkpoints_outlive_a_kill_and_go_with_success(local: Store) -> None:
    process = forked.Process(target=_killed_while_filling, args=(local,))
    process.start()
    process.join()
    assert (local.workdir("weights", "d1") / "checkpoint").read_text() == "step 3"
    other = local.workdir("weights", "d2")
    with pytest.raises(KeyError), local.create("weights", "d1"):
        raise KeyError
    assert (local.workdir("weights", "d1") / "checkpoint").exists()
    make(local)
    assert list(local.workdir("weights", "d1").iterdir()) == [] and other.exists()


def test_what_is_cached_outlives_the_artifact(local: Store) -> None:
    (local.cache("weights") / "x").write_text("kept")
    make(local)
    make(local, digest="d2")
    assert (local.cache("weights") / "x").read_text() == "kept"
    assert local.partitions("weights") == ["all"]
    assert list(local.cache("other").iterdir()) == []


def test_only_abandoned_temporary_directories_are_removed(local: Store) -> None:
    home = Path(local.root) / "weights" / "all"
    here, now = socket.gethostname().replace(".", "-"), time.time_ns()
    dead = forked.Process(target=lambda: None)
    dead.start()
    dead.join()
    first, ours = f"1-{began(1):.0f}", this_process()
    day_ago = now - int((STALE_SECONDS + 60) * 1e9)
    gone = [
        f".d.{here}.{dead.pid}-0.{now}.tmp",
        f".d.other-host.{ours}.{day_ago}.tmp",
        f".d.{here}.{os.getpid()}-{began(os.getpid()) - 60:.0f}.{now}.tmp",  # our number, another process's before
    ]
    kept = [
        f".d.{here}.{first}.{now}.tmp",
        f".d.other-host.{first}.{now}.tmp",
        f".d.{here}.{ours}.{now}.tmp",
        ".mine.tmp",
    ]
    for name in gone + kept:
        (home / name).mkdir(parents=True)
    make(local)
    assert left_over(home) == sorted(kept)


def test_a_number_that_was_given_again_is_of_a_process_that_has_ended() -> None:
    now = time.time()
    child = forked.Process(target=time.sleep, args=(60,))
    child.start()
    try:
        for pid in (child.pid, os.getpid(), 1):
            assert not has_ended(pid, now + 1)
            assert has_ended(pid, psutil.Process(pid).create_time() - 60)
    finally:
        child.kill()
        child.join()
    assert has_ended(child.pid, now + 1)


# --- a clock that is set back -----------------------------------------------------------------------


@pytest.fixture
def hour_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets the clock to what it was an hour ago; the machine counts when it started by the same clock."""
    nanoseconds, boot = time.time_ns, psutil.boot_time()

    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None) -> datetime:
            return datetime.fromtimestamp((nanoseconds() / 1e9) - 3600, UTC)

    def set_back() -> None:
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() - 3600 * 10**9)
        monkeypatch.setattr(module, "datetime", Earlier)
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot - 3600)

    return set_back


def test_work_of_a_living_process_is_not_taken_for_abandoned_when_the_clock_is_set_back(
    local: Store, hour_back: Callable[[], None]
) -> None:
    home = Path(local.root) / "weights" / "all"
    before, seen = time.time_ns(), time.time()
    with temporary(home, "d1") as early:
        hour_back()
        assert not has_ended(os.getpid(), seen) and not has_ended(os.getpid(), time.time_ns() / 1e9)
        with temporary(home, "d2") as late, temporary(home, "d3"):
            assert early.is_dir() and late.is_dir()
    (home / f".d.other-host.1-1.{before}.tmp").mkdir()  # which is of the future now
    make(local)
    assert left_over(home) == [f".d.other-host.1-1.{before}.tmp"]


def test_every_success_is_later_than_the_one_before(local: Store, hour_back: Callable[[], None]) -> None:
    stamps = []
    for k in range(4):
        make(local, digest=f"d{k % 2}")
        stamps.append(local.since("weights"))
        if k == 1:
            hour_back()
    assert stamps == sorted(set(stamps)) and local.current("weights").digest == "d1"


def _make_many(store: Store, barrier, text: str) -> None:
    for k in range(20):
        barrier.wait()
        make(store, digest=f"d{k}", text=text)


def test_two_processes_that_make_the_same_at_once_both_end_well(local: Store) -> None:
    barrier = forked.Barrier(2)
    both = [forked.Process(target=_make_many, args=(local, barrier, text)) for text in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    for k in range(20):
        found = local.find("weights", f"d{k}")
        assert found is not None and (found.path / "sub" / "a.txt").read_text() in ("one", "two")
    assert left_over(Path(local.root)) == []


def _stay_alone(store: Store, entered, leave) -> None:
    with store.alone("weights", "a"):
        entered.set()
        leave.wait()


def test_one_process_at_a_time_is_alone_until_it_ends_or_is_killed(store: Store) -> None:
    entered, leave = [forked.Event() for _ in range(2)], [forked.Event() for _ in range(2)]
    first, second = (
        forked.Process(target=_stay_alone, args=(store, entered[k], leave[k]), daemon=True) for k in range(2)
    )
    first.start()
    assert entered[0].wait(10)
    second.start()
    assert not entered[1].wait(1)
    with store.alone("weights", "b"):  # of another class: nobody to wait for
        first.kill()
        assert entered[1].wait(10)
    leave[1].set()
    second.join()
    assert second.exitcode == 0


# --- single files and full disks --------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"one")

    def fails(partial: Path) -> None:
        partial.write_bytes(b"half")
        assert path.read_bytes() == b"one"
        raise KeyError

    with pytest.raises(KeyError):
        atomic_write(path, fails)
    assert path.read_bytes() == b"one" and left_over(tmp_path) == []
    atomic_write(path, lambda partial: None if partial.write_text("two") else None)
    assert path.read_bytes() == b"two"


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_sentence_wherever_it_is_met(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(act) -> None:
        with pytest.raises(PipelineError, match=r"full \(\d+\.\d\d GB free\).*make room") as caught:
            act()
        assert local.root in str(caught.value)

    def build(error: Exception) -> None:
        with local.create("weights", "d1"):
            raise error

    check(lambda: build(OSError(errno.ENOSPC, "")))
    check(lambda: build(OSError(errno.EDQUOT, "")))
    check(lambda: build(RuntimeError("I/O error: No space left on device (os error 28)")))  # as safetensors puts it
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
        check(lambda: build(RuntimeError("unexpected pos 576 vs 534")))  # as torch puts it
    with pytest.raises(OSError, match="denied"):
        build(OSError(errno.EACCES, "denied"))
    for name in ("replace", "fsync", "rename"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, _full)
            check(lambda: make(local))
            if name != "rename":
                check(lambda: atomic_write(Path(local.root) / "f", b"x"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", _full)
        check(lambda: local.workdir("weights", "d3"))
        check(lambda: local.cache("weights"))
        check(lambda: make(local))
    assert local.find("weights", "d1") is None and left_over(Path(local.root)) == []
    make(local)
    assert local.current("weights").digest == "d1"
