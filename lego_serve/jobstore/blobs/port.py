"""The port of what holds the files of durable jobs: named bytes in named folders, each whole or not there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in a folder: its name, its bytes and when it was written, in seconds by the wall clock."""

    name: str
    size: int
    written_at: float


class Blobs(Protocol):
    """Holds named bytes in folders that appear with their first file.

    Calls block; the event loop runs them in a thread.  Every method may raise StoreUnavailable: what was asked may have
    been done all the same.
    """

    def write(self, folder: str, name: str, content: bytes, *, is_durable: bool) -> None:
        """Put a file in place of what was there; where it is to be durable, power loss takes it no more."""
        ...

    def create(self, folder: str, name: str, content: bytes) -> bool:
        """Put a file where there is none, durably; False where there is one, which stays."""
        ...

    def read(self, folder: str, name: str) -> bytes:
        """Return a file.  Raises FileNotFoundError."""
        ...

    def path(self, folder: str, name: str) -> Path | None:
        """Return where a file lies on this machine; None where it does not, which says nothing about it."""
        ...

    def list(self, folder: str) -> Sequence[Blob]:
        """Return what is in a folder; nothing where there is none."""
        ...

    def delete(self, folder: str, names: Sequence[str]) -> None:
        """Remove files, as far as they are there."""
        ...

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and all that is in it."""
        ...

    def folders(self) -> Sequence[str]:
        """Return the names of all folders."""
        ...
