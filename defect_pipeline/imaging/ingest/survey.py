"""What lies in the folder under ingest, and what a layout has to say of it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from defect_pipeline.imaging.io import SUFFIXES, UnopenedFileError, UnusableFileError

DEFECT_FREE = "defect_free"
IMAGE_FOLDERS, MASK_FOLDERS = ("images", "imgs", "jpegimages"), ("masks", "mask")


def scan(root: Path) -> dict[str, tuple[int, int]]:
    """path (posix, below `root`) -> (size in bytes, mtime_ns) of every image, JSON and XML file; nothing is decoded.

    Hidden files and folders are passed over. Linked folders are not entered but stand in the result
    by their own path; broken links have (0, 0).
    """
    return _look(root)[0]


def _look(root: Path) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """What `scan` returns, and which of it are linked folders."""
    files, linked = {}, []
    for folder, subfolders, names in os.walk(root):
        below = "" if Path(folder) == root else Path(os.path.relpath(folder, root)).as_posix() + "/"
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        linked += [below + name for name in links]
        relevant = [name for name in names if name[0] != "." and suffix_of(name) in SUFFIXES | {".json", ".xml"}]
        for name in relevant + links:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
                stamp = status.st_size, status.st_mtime_ns
            except OSError:
                stamp = 0, 0
            files[below + name] = stamp
    return dict(sorted(files.items())), sorted(linked)


@dataclass(frozen=True)
class Shape:
    """One defect as annotated: a COCO segmentation, or a box (x0, y0, x1, y1) in px, x1 and y1 exclusive."""

    name: str  # how `rejected` calls it
    category: str
    outline: Any
    iscrowd: int = 0

    @property
    def source(self) -> str:
        if isinstance(self.outline, tuple):
            return "box"
        return "polygon" if isinstance(self.outline, list) else "rle"


@dataclass(frozen=True)
class Entry:
    """One image of the folder and what the layout says of it; paths are posix, below the root."""

    image: str
    mask: str = ""
    shapes: tuple[Shape, ...] = ()
    defective: bool = False  # the layout says so, even where none of its annotations can be used
    size: tuple[int, int] | None = None  # (width, height) that the annotations were made for; None: as displayed


@dataclass
class Survey:
    """The folder under ingest: its files, and the rows that will be `Dataset.rejected`."""

    root: Path  # resolved
    files: dict[str, tuple[int, int]]
    rejected: list[tuple[str, str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> "Survey":
        """A fresh look at the folder; linked folders are rejected right away."""
        files, linked = _look(root)
        survey = cls(root.resolve(), files)
        for path in linked:
            del survey.files[path]
            survey.reject(path, "is a link to a folder, which is not followed", "copy the folder to its place")
        return survey

    def reject(self, path: str, reason: str, remedy: str) -> None:
        """Lists a file, or an annotation of it, as left out."""
        self.rejected.append((path, reason, remedy))

    def reject_rest(self, entries: Iterable[Entry], reason: str, remedy: str) -> None:
        """Lists the images that the layout neither uses nor has listed yet."""
        used = {path for entry in entries for path in (entry.image, entry.mask)}
        spoken_for = used | {path for path, _, _ in self.rejected}
        for path in self.images():
            if path not in spoken_for and not is_free(path):
                self.reject(path, reason, remedy)

    def images(self) -> list[str]:
        """The files with the suffix of a picture, masks included."""
        return [path for path in self.files if suffix_of(path) in SUFFIXES]

    def below(self, *folders: str) -> list[str]:
        """The files below a top-level folder of one of these names, in any case."""
        return [path for path in self.files if "/" in path and path.split("/")[0].lower() in folders]

    def locate(self, name: str, folders: Iterable[str]) -> str:
        """The path of the file that annotations call `name`, sought in these folders. Raises UnusableFileError."""
        plain = name.replace("\\", "/")
        if PurePosixPath(plain).is_absolute() or PureWindowsPath(plain).is_absolute() or "\0" in plain:
            raise UnusableFileError(name, "is an absolute path", "write the path relative to the data folder")
        for folder in folders:
            target = Path(os.path.realpath(self.root / folder / plain))
            if not target.is_relative_to(self.root):
                raise UnusableFileError(name, "leads outside the data folder", "copy the file into the folder")
            path = target.relative_to(self.root).as_posix()
            if path in self.files:
                return path
        raise UnusableFileError(
            name, "is listed but missing", f"add the image (as {', '.join(sorted(SUFFIXES))}) or delist it"
        )

    def guard(self, path: str) -> None:
        """Raises UnopenedFileError for a link that leads outside the folder."""
        link = self.root / path
        if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(self.root):
            reason = "is a link that leads outside the data folder"
            raise UnopenedFileError(path, reason, "copy the file into the folder")


def is_free(path: str) -> bool:
    """Whether it lies below the top-level folder of the defect-free images."""
    return "/" in path and path.split("/")[0].lower() == DEFECT_FREE


def suffix_of(path: str) -> str:
    """With its dot, in lower case."""
    return os.path.splitext(path)[1].lower()
