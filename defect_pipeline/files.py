"""Files that are never half there, and folders told apart by what is in them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the file's place when the block ends well, and goes when it does not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def content_digest(directory: Path) -> str:
    """sha256 over the names and bytes of all files under a directory."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(path.relative_to(directory).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def directory_digest(directory: Path) -> str:
    """sha256 (16 hex digits) over the names and bytes of a directory's files: the revision of a local model.

    Read once by a process for each state, by size and time, that the files are found in.
    """
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.suffix in {".json", ".safetensors", ".txt"})
    states = (path.stat() for path in files)
    return _digest_of(
        directory, tuple((path, state.st_size, state.st_mtime_ns) for path, state in zip(files, states, strict=True))
    )


@lru_cache(maxsize=64)
def _digest_of(directory: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.relative_to(directory).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
