"""Files of metrics in space that is reserved: a full disk costs a process its newest series, never its life.

prometheus_client maps a sparse file for each process and kind of metric.  A page of it that finds no room on the disk
when it is first written ends the process with a bus error; so space is reserved before it is mapped.
"""

import errno
import os

from prometheus_client import mmap_dict, values

RESERVED_BYTES = 256 * 1024  # for each kind of metric: some two thousand series


class ReservedDict(mmap_dict.MmapedDict):
    """A mapped file whose pages are all there; what finds no room counts in this process alone, until there is some."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._unwritten: dict[str, tuple[float, float]] = {}
        if not read_mode:
            _reserve(filename, RESERVED_BYTES)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        """Add a key.  Raises OSError, with nothing changed, where its place cannot be had."""
        room = self._capacity - self._used
        if len(key.encode()) + 32 > room:  # the length, the padding and two numbers
            _reserve(self._fname, 2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its time."""
        if key in self._unwritten:
            return self._unwritten[key]
        try:
            found: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        except OSError as error:
            _require_full(error)
            found = self._unwritten[key] = 0.0, 0.0
        return found

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a value and its time."""
        try:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        except OSError as error:
            _require_full(error)
            self._unwritten[key] = value, timestamp
        else:
            self._unwritten.pop(key, None)


def reserve_metric_files() -> None:
    """Have the metrics of this process lie in reserved space; call it before any is made.

    Raises OSError where there is no room.  Counters and gauges have a file as soon as there is one, labelled histograms
    only with the first value, when the disk may be full: so theirs is made here.
    """
    values.MmapedDict = ReservedDict  # type: ignore[misc,attr-defined]
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        _reserve(os.path.join(folder, f"histogram_{os.getpid()}.db"), RESERVED_BYTES)


def _reserve(filename: str, size_bytes: int) -> None:
    """Give a file so many bytes of the disk.  Raises OSError where there are not as many."""
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    finally:
        os.close(descriptor)


def _require_full(error: OSError) -> None:
    """Raise the error again unless the disk is full."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise error
