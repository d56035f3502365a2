"""The artifact store: one directory `<asset>/<partition>/<digest>/` for each thing made, manifest.json written last.

A directory without its manifest does not exist. What is being made lies in a temporary directory beside the others and
is renamed into place when whole, so a killed run leaves nothing that a later one could take for finished.
"""

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import dagster as dg
from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from upath import UPath

from defect_pipeline.errors import MissingArtifactError, PipelineError
from defect_pipeline.files import replacing
from defect_pipeline.processes import began, is_the_same

log = logging.getLogger("defect_pipeline")

MANIFEST = "manifest.json"
CURRENT = "current.json"
REPORT = "report.json"
T = TypeVar("T")
FORMAT = 1
STALE_SECONDS = 24 * 3600  # a temporary directory of another host is given up after a day
SYNCED = 16  # files brought to the disk at once: their waits overlap
FULL = 2**20  # bytes; where less is free at an error, the disk is to blame


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `path` is a local directory; for a remote store, a copy that was fetched and checked."""

    asset: str
    partition: str | None
    digest: str
    path: Path
    metadata: dict[str, Any]  # what the UI shows
    parents: dict[str, str]
    created: str
    contents: dict[str, str] = field(default_factory=dict)  # digests of what is inside, as far as they were given

    @property
    def seconds(self) -> float:
        """How long it took to make."""
        return float(self.metadata["seconds"])

    def load(self, kind: type[T]) -> T:
        """The report that was kept with `Draft.keep`, as a ``kind``.

        Raises PipelineError where none was kept, or one of another kind.
        """
        try:
            return _adapter(kind).validate_json((self.path / REPORT).read_bytes())
        except (OSError, ValueError) as error:
            name = f"{self.asset} [{self.partition}]" if self.partition else self.asset
            raise PipelineError(
                f"{name} cannot be read ({type(error).__name__} in {self.path / REPORT}): it is of another version of the "
                "program; run again."
            ) from error


@dataclass
class Draft:
    """An artifact in the making: files go below `path`, what is shown into `metadata`."""

    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)

    def keep(self, report: Any) -> None:
        """Write a dataclass, or a list or dict of them, as the artifact's report; `Artifact.load` reads it."""
        (self.path / REPORT).write_text(json.dumps(report, default=_fields))


def _fields(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    raise TypeError(f"{type(value).__name__} is no part of a report")


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


_adapters: dict[Any, TypeAdapter[Any]] = {}


def digest_of(*parts: Any) -> str:
    """16 hex digits of the sha256 over the canonical JSON of the parts; dataclasses and paths are understood."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        if isinstance(value, Path | UPath):
            return str(value)
        raise TypeError(f"cannot digest {type(value).__name__}")

    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=plain).encode()).hexdigest()[:16]


def atomic_write(path: Path, content: bytes | Callable[[Path], None]) -> None:
    """Replace a file as a whole: bytes, or what a function writes to the path it is given.

    Raises PipelineError when the disk is full; the file is then what it was.
    """
    with explaining_full_disk(path.parent):
        with replacing(path) as partial:
            if callable(content):
                content(partial)
            else:
                partial.write_bytes(content)
            _sync(partial)
        _sync(path.parent)


class Store(dg.ConfigurableResource):
    """Artifacts below `root`, a local directory or any fsspec URL."""

    root: str

    def find(self, asset: str, digest: str, partition: str | None = None) -> Artifact | None:
        """The artifact of that digest; None when there is none, or when its files are not those of its manifest."""
        directory = self._directory(asset, partition) / digest
        manifest = _manifest(directory)
        if manifest is None:
            return None
        path = Path(directory.path) if self._local else self._fetched(directory, manifest)
        keys = ("metadata", "parents", "created")
        contents = manifest.get("contents") or _contents_of_before(manifest["metadata"])
        return Artifact(asset, partition, digest, path, **{key: manifest[key] for key in keys}, contents=contents)

    def current(self, asset: str, partition: str | None = None) -> Artifact:
        """The artifact that was made or confirmed last. Raises MissingArtifactError when there is none."""
        digest = _pointer(self._directory(asset, partition)).get("digest")
        artifact = self.find(asset, digest, partition) if digest else None
        if artifact is None:
            name = f"{asset} of class {partition!r}" if partition else asset
            raise MissingArtifactError(
                f"There is no {name} in {self.root}; materialize it first, or run `defect-pipeline run`."
            )
        return artifact

    def set_current(self, artifact: Artifact) -> None:
        """Point the asset (of a partition) at this artifact."""
        self._point(self._directory(artifact.asset, artifact.partition), artifact.digest)

    def since(self, asset: str, partition: str | None = None) -> str:
        """When the current artifact was made or confirmed (ISO 8601), "" when never; grows with every success."""
        return _pointer(self._directory(asset, partition)).get("since", "")

    def partitions(self, asset: str) -> list[str]:
        """The partitions ("all" for an unpartitioned asset) that have a current artifact, sorted."""
        home = self._base / asset
        if not home.exists():
            return []
        pointed = [(child, _pointer(child).get("digest")) for child in home.iterdir()]
        return sorted(unquote(child.name) for child, digest in pointed if digest and _manifest(child / digest))

    @contextmanager
    def create(
        self, asset: str, digest: str, partition: str | None = None, *, parents: dict[str, str] | None = None
    ) -> Iterator[Draft]:
        """A directory to fill; it becomes the current artifact when the block ends well, and vanishes when it does not.

        Of two that make the same artifact at once the first one wins, and both end well. Raises PipelineError when the
        disk is full.
        """
        home = self._directory(asset, partition)
        desk = Path(home.path) if self._local else self._scratch / "drafts" / asset / home.name
        with temporary(desk, digest) as path, explaining_full_disk(desk):
            draft = Draft(path)
            yield draft
            _seal(draft, parents or {})
            if self._local:
                _rename(path, desk / digest)
            else:
                _upload(path, home / digest)
        self._point(home, digest)
        shutil.rmtree(self._work(asset, digest, partition), ignore_errors=True)

    @contextmanager
    def alone(self, asset: str, partition: str | None = None) -> Iterator[None]:
        """No other process that shares the local files is in such a block for the same asset (of a partition): it waits.

        Who fills a `workdir` is alone, lest two write the same files. A kill ends the block too.
        """
        desk = self._work(asset, "", partition)
        with explaining_full_disk(desk):
            desk.mkdir(parents=True, exist_ok=True)
        lock = FileLock(desk / ".lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info("%s (%s): another process is making it; waiting.", asset, partition or "all")
            held = lock.acquire()
        with held:
            yield

    def workdir(self, asset: str, digest: str, partition: str | None = None) -> Path:
        """A local directory for checkpoints, which outlives a kill and goes when the artifact is finished."""
        directory = self._work(asset, digest, partition)
        with explaining_full_disk(directory):
            directory.mkdir(parents=True, exist_ok=True)
        return directory

    def cache(self, asset: str) -> Path:
        """A local directory for what an asset can make again at some cost; unlike a `workdir`, it stays."""
        directory = self._scratch / "work" / asset / ".cache"  # no partition is called so, see `_safe`
        with explaining_full_disk(directory):
            directory.mkdir(parents=True, exist_ok=True)
        return directory

    @property
    def _local(self) -> bool:
        return UPath(self.root).protocol in ("", "file", "local")

    @property
    def _base(self) -> UPath:
        root = UPath(self.root)
        if self._local:
            return UPath(Path(root.path).absolute())
        root.fs.invalidate_cache()  # others write there too
        return root

    @property
    def _scratch(self) -> Path:
        """Where local files of the store lie: in a local one, else in the user's cache."""
        if self._local:
            return Path(self._base.path)
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "defect-pipeline" / digest_of(self.root)

    def _directory(self, asset: str, partition: str | None) -> UPath:
        return self._base / asset / (_safe(partition) if partition else "all")

    def _work(self, asset: str, digest: str, partition: str | None) -> Path:
        return self._scratch / "work" / asset / (_safe(partition) if partition else "all") / digest

    def _point(self, home: UPath, digest: str) -> None:
        content = json.dumps({"digest": digest, "since": _later(_pointer(home).get("since", ""))}).encode()
        if self._local:
            atomic_write(Path(home.path) / CURRENT, content)
        else:
            (home / CURRENT).write_bytes(content)

    def _fetched(self, directory: UPath, manifest: dict[str, Any]) -> Path:
        """A local copy of a remote artifact, fetched once. Raises PipelineError when a file is not what was stored."""
        local = self._scratch / "cache" / digest_of(str(directory), manifest)
        if _manifest(UPath(local)) is not None:
            return local
        with temporary(local.parent, local.name) as path, explaining_full_disk(local.parent):
            for name, entry in manifest["files"].items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                directory.fs.get_file((directory / name).path, str(path / name))
                if file_sha256(path / name) != entry["sha256"]:
                    raise PipelineError(f"{directory / name} is spoiled; remove {directory} and run again.")
            atomic_write(path / MANIFEST, json.dumps(manifest).encode())
            _rename(path, local)
        return local


def _manifest(directory: UPath) -> dict[str, Any] | None:
    """The manifest of a whole artifact; None where there is none or where its files are not what it lists."""
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        listed = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        understood = manifest["format"] == FORMAT and {"metadata", "parents", "created"} <= manifest.keys()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):  # not JSON, or not such JSON
        understood, listed = False, {}
    found = _listing(directory)
    odd = [name for name, entry in listed.items() if not _is_as_listed(found.get(name), *entry)]
    if not understood:
        odd = [MANIFEST]
    if odd:
        _warn(str(directory), odd[0])
        return None
    return manifest


def _contents_of_before(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Of an artifact of version 0.1.0, which kept them among its metadata."""
    return {known: str(metadata[name]) for name, known in (("content", ""), ("root", "root")) if name in metadata}


def _listing(directory: UPath) -> dict[str, dict[str, Any]]:
    """Name -> what fsspec says of all files, by one listing: an object store answers each question over the network."""
    home = PurePosixPath(directory.path)
    listing = directory.fs.find(directory.path, detail=True)
    return {PurePosixPath(path).relative_to(home).as_posix(): entry for path, entry in listing.items()}


def _is_as_listed(found: Mapping[str, Any] | None, size: int, sha256: str) -> bool:
    """Whether a file is there as the manifest says. A remote one only by its size: its content is looked at when it is
    fetched."""
    if found is None or found["size"] != size:
        return False
    return "ino" not in found or _sha256(*(found[key] for key in ("name", "size", "mtime", "created", "ino"))) == sha256


@functools.lru_cache(maxsize=100_000)
def _sha256(path: str, *state: float) -> str:
    """Of a local file, read once in each state that it is found in: a change of content changes at least its ctime."""
    return file_sha256(Path(path))


@functools.cache  # once: a run asks for the same artifact many times
def _warn(directory: str, name: str) -> None:
    log.warning("%s is not what its manifest says (%s); it counts as missing and is made again.", directory, name)


def _pointer(home: UPath) -> dict[str, str]:
    """What current.json says; nothing where there is none or where it cannot be read."""
    try:
        pointer = json.loads((home / CURRENT).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    understood = isinstance(pointer, dict) and re.fullmatch(r"\w+", str(pointer.get("digest")))
    return pointer if understood else {}


def _later(before: str) -> str:
    """Now (ISO 8601), and always after ``before``, whoever set the clock back."""
    now = datetime.now(UTC)
    with suppress(ValueError, TypeError):  # never before, or edited by hand
        now = max(now, datetime.fromisoformat(before) + timedelta(microseconds=1))
    return now.isoformat()


def _seal(draft: Draft, parents: dict[str, str]) -> None:
    """Bring the draft's files to the disk and list them in its manifest."""
    paths = sorted(draft.path.rglob("*"))
    with ThreadPoolExecutor(SYNCED) as pool:
        list(pool.map(_sync, paths))
    files = {
        path.relative_to(draft.path).as_posix(): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in paths
        if path.is_file()
    }
    manifest = {
        "format": FORMAT, "files": files, "metadata": draft.metadata, "contents": draft.contents, "parents": parents,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    atomic_write(draft.path / MANIFEST, json.dumps(manifest, indent=1).encode())


def _rename(source: Path, target: Path) -> None:
    """Into place; what stands there is kept when whole (another run was first) and makes room when not."""
    while not _moved(source, target):
        if _manifest(UPath(target)) is not None:
            return
        with suppress(FileNotFoundError), temporary(target.parent, target.name) as aside:
            os.rename(target, aside / "broken")
    _sync(target.parent)


def _moved(source: Path, target: Path) -> bool:
    """Move a directory; False where another one stands that is not empty."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _upload(source: Path, target: UPath) -> None:
    """Files first, the manifest last, for an object store knows no rename. What stands there whole is kept.

    Two that upload at the same moment may mix their files; who reads them notices by size and sha256.
    """
    if _manifest(target) is not None:
        return
    if target.exists():
        target.fs.rm(target.path, recursive=True)
    files = [p for p in sorted(source.rglob("*")) if p.is_file() and p != source / MANIFEST]
    for path in [*files, source / MANIFEST]:
        target.fs.put_file(str(path), (target / path.relative_to(source).as_posix()).path)


@contextmanager
def temporary(base: Path, digest: str) -> Iterator[Path]:
    """A directory in ``base`` named after this process, so that another one can tell when it is abandoned; it goes at the end."""
    for other in base.glob(".*.tmp"):
        if _abandoned(other):
            shutil.rmtree(other, ignore_errors=True)
    path = base / f".{digest}.{_host()}.{this_process()}.{time.time_ns()}.tmp"
    with explaining_full_disk(base):
        path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    """Whether the process that made a temporary directory is gone; on another host: whether it is a day old."""
    match = re.fullmatch(r".*\.([^.]+)\.(\d+)-(\d+)\.(\d+)\.tmp", path.name)
    if match is None:  # none of ours
        return False
    host, pid, then, made = match[1], *(int(number) for number in match.groups()[1:])
    if host != _host():
        return time.time_ns() - made > STALE_SECONDS * 1e9
    return not is_the_same(pid, then)


def this_process() -> str:
    """Its number and when it began, as in the names of temporary directories."""
    return f"{os.getpid()}-{began(os.getpid()) or 0:.0f}"


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def _safe(partition: str) -> str:
    """A class name as one file name that leads nowhere else; `unquote` brings it back."""
    return quote(partition, safe=" ").replace(".", "%2E")


def file_sha256(path: Path) -> str:
    """64 hex digits over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """A file's content, or a directory's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explaining_full_disk(folder: Path, option: str = "--store") -> Iterator[None]:
    """A full disk as a sentence that names the folder's option: raises PipelineError in place of what it made the block raise."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if not _is_full(error, free):
            raise
        raise PipelineError(
            f"The disk of {folder} is full ({free / 1e9:.2f} GB free): make room, or name another folder with {option}; "
            "the same command goes on where it stopped."
        ) from error


def _is_full(error: Exception, free: int) -> bool:
    """Python says so by number, safetensors and SQLite in words, torch and numpy in no way but that nothing is free."""
    said = any(phrase in str(error) for phrase in (os.strerror(errno.ENOSPC), "disk is full"))
    return said or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or free < FULL
