"""Tells whether a file may have been replaced since it was read, by what its file system says of it.

Size and time of modification are not enough: ``cp -p``, ``rsync -t``, ``tar`` and container images give a file the
time of its source.  The time of change (ctime) is set by the system at every write, rename and change of times, and no
program can choose it.  It moves in ticks, though: a write in the tick of a read leaves it as it was.  So a version
counts as settled only if it was older than any tick when the read began; until then the hash must be compared.
"""

from dataclasses import dataclass

SETTLE_S = 2.0  # the coarsest clock of a file system in use (FAT's; most tick in milliseconds)


@dataclass(frozen=True, slots=True)
class FileVersion:
    """The state of a file by its file system; equal values mean equal content once the version ``is_settled``."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @property
    def content(self) -> tuple[int, ...]:
        """What tells the content without saying where it lies: size and times."""
        return self.size_bytes, self.modified_ns, self.changed_ns


def is_settled(version: FileVersion, read_at_s: float, seen_for_s: float) -> bool:
    """Return whether any write after a read must show in the version.

    ``read_at_s`` is when the read began, in seconds since 1970; ``seen_for_s``: for how long this version had been seen
    by then.  The second serves file systems whose clock is ahead of this machine's.
    """
    return read_at_s - version.changed_ns / 1e9 >= SETTLE_S or seen_for_s >= SETTLE_S
