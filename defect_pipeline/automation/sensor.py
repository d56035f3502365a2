"""When the data folder is at rest: pure decisions of the sensor, which never sees half of a copy."""

import json
from dataclasses import asdict, dataclass

from defect_pipeline.store import digest_of

INTERVAL = 30  # seconds between two looks
SETTLE = 60  # seconds without a change after which a file counts as copied
EMPTY = 3600  # seconds for which an empty file is waited for; then it is ingest's to reject
NAMED = 3  # files that a reason to wait names


@dataclass(frozen=True)
class Snapshot:
    """One look at the data folder, small enough for a cursor however many files there are."""

    digest: str  # of all names, sizes and times
    files: int

    @classmethod
    def of(cls, scan: dict[str, tuple[int, int]]) -> "Snapshot":
        """Of path -> (size in bytes, mtime in ns)."""
        return cls(digest_of(sorted(scan.items())), len(scan))

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Snapshot | None":
        """None at the first tick, and for a cursor of another version of the program."""
        try:
            return cls(**json.loads(cursor or ""))
        except (ValueError, TypeError):
            return None

    @property
    def cursor(self) -> str:
        return json.dumps(asdict(self))


def reason_to_wait(previous: Snapshot | None, scan: dict[str, tuple[int, int]], now_ns: int) -> str | None:
    """Why the folder is better left alone for this tick; None when it is at rest.

    It rests when two looks saw the same and no file is young: a copy that stands still between two looks is not
    finished. Files under a temporary name (.part, .tmp, hidden) are not in the scan, and their renaming changes it.
    """
    young = [path for path, stamp in scan.items() if _is_young(*stamp, now_ns)]
    if young:
        more = f" and {len(young) - NAMED} more" if len(young) > NAMED else ""
        return f"Waiting for {', '.join(sorted(young)[:NAMED])}{more}: still being copied, it seems."
    now = Snapshot.of(scan)
    if previous is None:
        return f"First look at the data folder: {now.files} files."
    if now != previous:
        return f"The data folder has changed: {previous.files} files before, {now.files} now; waiting until it rests."
    return None


def _is_young(size: int, mtime_ns: int, now_ns: int) -> bool:
    age = abs(now_ns - mtime_ns) / 1e9  # a file server's clock may be ahead of ours
    return age < (SETTLE if size else EMPTY)
