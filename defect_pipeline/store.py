"""The artifact store: one directory `<asset>/<partition>/<digest>/` for each thing made, its manifest.json written last.

A directory without its manifest does not exist. What is being made lies in a temporary directory beside the others and is
renamed into place when whole, so a killed run leaves nothing that a later one could take for finished.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import dagster as dg
from upath import UPath

from defect_pipeline.errors import PipelineError

log = logging.getLogger("defect_pipeline")

MANIFEST = "manifest.json"
CURRENT = "current.json"
FORMAT = 1
STALE_SECONDS = 24 * 3600  # a temporary directory of another host is given up after a day


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `path` is a local directory; for a remote store, a copy that was fetched and checked."""

    asset: str
    partition: str | None
    digest: str
    path: Path
    metadata: dict[str, Any]
    parents: dict[str, str]
    created: str


@dataclass
class Draft:
    """An artifact in the making: files go below `path`, figures into `metadata`."""

    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)


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
    """Replace a file as a whole: bytes, or what a function writes to the path it is given."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _room(path.parent):
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content)
        _sync(partial)
        os.replace(partial, path)


class Store(dg.ConfigurableResource):
    """Artifacts below `root`, a local directory or any fsspec URL."""

    root: str

    def find(self, asset: str, digest: str, partition: str | None = None) -> Artifact | None:
        """The artifact of that digest; None when there is none, or when its files are not those of its manifest."""
        directory = self._directory(asset, partition) / digest
        if not (directory / MANIFEST).exists():
            return None
        manifest = json.loads((directory / MANIFEST).read_text())
        for name, entry in manifest["files"].items():
            file = directory / name
            if not file.exists() or file.stat().st_size != entry["size"]:
                log.warning("%s was changed by hand (%s); it will be made again.", directory, name)
                return None
        local = Path(str(directory)) if self._local else self._fetched(directory, manifest)
        keys = ("metadata", "parents", "created")
        return Artifact(asset, partition, digest, local, **{key: manifest[key] for key in keys})

    def current(self, asset: str, partition: str | None = None) -> Artifact:
        """The artifact that was made or confirmed last. Raises PipelineError when there is none."""
        pointer = self._directory(asset, partition) / CURRENT
        artifact = None
        if pointer.exists():
            artifact = self.find(asset, json.loads(pointer.read_text())["digest"], partition)
        if artifact is None:
            name = f"{asset} of class {partition!r}" if partition else asset
            raise PipelineError(f"There is no {name} in {self.root}; materialize it first, or run `defect-pipeline run`.")
        return artifact

    def set_current(self, artifact: Artifact) -> None:
        """Point the asset (of a partition) at this artifact."""
        directory = self._directory(artifact.asset, artifact.partition)
        content = json.dumps({"digest": artifact.digest}).encode()
        if self._local:
            atomic_write(Path(str(directory)) / CURRENT, content)
        else:
            (directory / CURRENT).write_bytes(content)

    def partitions(self, asset: str) -> list[str]:
        """The partitions ("all" for an unpartitioned asset) that have a current artifact, sorted."""
        directory = UPath(self.root) / asset
        if not directory.exists():
            return []
        return sorted(unquote(child.name) for child in directory.iterdir() if (child / CURRENT).exists())

    @contextmanager
    def create(
        self, asset: str, digest: str, partition: str | None = None, *, parents: dict[str, str] | None = None
    ) -> Iterator[Draft]:
        """A directory to fill; it becomes the current artifact when the block ends well, and vanishes when it does not.

        Of two that make the same artifact at once the first one wins, and both end well. Raises PipelineError when the disk
        is full.
        """
        home = self._directory(asset, partition)
        base = Path(str(home)) if self._local else Path(tempfile.mkdtemp())
        with _room(base):
            base.mkdir(parents=True, exist_ok=True)
            _remove_stale(base)
            draft = Draft(base / f".{digest}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}.tmp")
            draft.path.mkdir()
            try:
                yield draft
                self._seal(draft, parents or {})
                if self._local:
                    self._rename(draft.path, base / digest)
                else:
                    self._upload(draft.path, home / digest)
            finally:
                shutil.rmtree(draft.path, ignore_errors=True)
        made = self.find(asset, digest, partition)
        assert made is not None
        self.set_current(made)
        shutil.rmtree(self._workdir(asset, digest, partition), ignore_errors=True)

    def workdir(self, asset: str, digest: str, partition: str | None = None) -> Path:
        """A local directory for checkpoints, which outlives a kill and goes when the artifact is finished."""
        directory = self._workdir(asset, digest, partition)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    @property
    def _local(self) -> bool:
        return UPath(self.root).protocol in ("", "file", "local")

    def _directory(self, asset: str, partition: str | None) -> UPath:
        return UPath(self.root) / asset / (_safe(partition) if partition else "all")

    def _workdir(self, asset: str, digest: str, partition: str | None) -> Path:
        return self._scratch() / "work" / asset / (_safe(partition) if partition else "all") / digest

    def _scratch(self) -> Path:
        if self._local:
            return Path(self.root)
        return Path(tempfile.gettempdir()) / "defect-pipeline" / digest_of(self.root)

    def _seal(self, draft: Draft, parents: dict[str, str]) -> None:
        files = {}
        for path in sorted(p for p in draft.path.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            files[path.relative_to(draft.path).as_posix()] = {"size": path.stat().st_size, "sha256": sha256}
        manifest = {
            "format": FORMAT, "files": files, "metadata": draft.metadata, "parents": parents,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        atomic_write(draft.path / MANIFEST, json.dumps(manifest, indent=1).encode())

    def _rename(self, source: Path, target: Path) -> None:
        """Into place; what stands there is kept when whole (another run was first) and put aside when not."""
        for _ in range(2):
            try:
                os.rename(source, target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if self._whole(target):
                    return
                broken = target.with_name(f".{target.name}.broken.{time.time_ns()}.tmp")
                os.rename(target, broken)
                shutil.rmtree(broken, ignore_errors=True)

    def _whole(self, directory: Path) -> bool:
        manifest = directory / MANIFEST
        if not manifest.exists():
            return False
        files = json.loads(manifest.read_text())["files"]
        return all((directory / n).exists() and (directory / n).stat().st_size == e["size"] for n, e in files.items())

    def _upload(self, source: Path, target: UPath) -> None:
        """Files first, the manifest last: an object store knows no rename."""
        files = sorted(p for p in source.rglob("*") if p.is_file() and p.name != MANIFEST)
        for path in [*files, source / MANIFEST]:
            remote = target / path.relative_to(source).as_posix()
            remote.parent.mkdir(parents=True, exist_ok=True)
            remote.write_bytes(path.read_bytes())

    def _fetched(self, directory: UPath, manifest: dict[str, Any]) -> Path:
        """A local copy of a remote artifact, fetched once."""
        local = self._scratch() / "cache" / digest_of(str(directory), manifest["created"])
        if not (local / MANIFEST).exists():
            for name in manifest["files"]:
                (local / name).parent.mkdir(parents=True, exist_ok=True)
                (local / name).write_bytes((directory / name).read_bytes())
            atomic_write(local / MANIFEST, (directory / MANIFEST).read_bytes())
        return local


def _safe(partition: str) -> str:
    """A class name as one file name that leads nowhere else; `unquote` brings it back."""
    return quote(partition, safe=" ").replace(".", "%2E")


def _remove_stale(base: Path) -> None:
    """Temporary directories of processes that are gone."""
    for path in base.glob(".*.tmp"):
        host, pid = path.name.rsplit(".", 4)[-4:-2] if path.name.count(".") >= 4 else ("", "")
        gone = not Path(f"/proc/{pid}").exists() if host == socket.gethostname() else _age(path) > STALE_SECONDS
        if gone:
            shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A full disk as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(folder).free / 1e9 if folder.exists() else 0.0
        raise PipelineError(
            f"The disk of {folder} is full ({free:.2f} GB free): make room, or name another folder with --store; the same "
            "command goes on where it stopped."
        ) from error
