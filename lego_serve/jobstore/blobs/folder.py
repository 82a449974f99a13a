"""Files in a folder of a disk, or of a file system that several machines share."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lego_serve.errors import StoreUnavailable
from lego_serve.jobstore.blobs.port import Blob

UNFINISHED = ".tmp"
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FolderBlobs:
    """Blobs below a folder, readable for this user alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, folder: str, name: str, content: bytes, *, is_durable: bool) -> None:
        """Write a file that appears whole; a durable one and its name are synced."""
        self._put(folder, name, content, is_durable=is_durable, replaces=True)

    def create(self, folder: str, name: str, content: bytes) -> bool:
        """Write a file where there is none."""
        try:
            self._put(folder, name, content, is_durable=True, replaces=False)
        except FileExistsError:
            return False
        return True

    def read(self, folder: str, name: str) -> bytes:
        """Return a file's content."""
        try:
            with _answering():
                return (self._root / folder / name).read_bytes()
        except ABSENT as error:
            raise FileNotFoundError(f"{folder}/{name}") from error

    def path(self, folder: str, name: str) -> Path | None:
        """Return the file itself."""
        path = self._root / folder / name
        with _answering():
            return path if path.is_file() else None

    def list(self, folder: str) -> Sequence[Blob]:
        """Return the files of a folder; what was being written when its process died is among them."""
        found = []
        with _answering(), suppress(*ABSENT), os.scandir(self._root / folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it has gone meanwhile
                    known = entry.stat()
                    found.append(Blob(entry.name, known.st_size, known.st_mtime))
        return found

    def delete(self, folder: str, names: Sequence[str]) -> None:
        """Remove files."""
        for name in names:
            with _answering(), suppress(*ABSENT):
                (self._root / folder / name).unlink()

    def delete_folder(self, folder: str) -> None:
        """Remove a folder."""
        with _answering():
            shutil.rmtree(self._root / folder, onerror=_raise_unless_gone)

    def folders(self) -> Sequence[str]:
        """Return the names of folders, and of nothing else."""
        with _answering(), suppress(*ABSENT), os.scandir(self._root) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
        return []

    def _put(self, folder: str, name: str, content: bytes, *, is_durable: bool, replaces: bool) -> None:
        place = self._root / folder
        unfinished = place / f"{name}.{secrets.token_hex(8)}{UNFINISHED}"
        try:
            is_new = not place.exists()
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            if replaces:
                unfinished.replace(place / name)
            else:
                os.link(unfinished, place / name)
            if is_durable:
                _sync(place)
                if is_new:
                    _sync(self._root)
        except FileExistsError:
            raise
        except OSError as error:
            raise _unavailable(error, "written") from error
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


@contextmanager
def _answering() -> Iterator[None]:
    """Raise StoreUnavailable for what the disk does not do, such as one that has become read only."""
    try:
        yield
    except ABSENT:
        raise
    except OSError as error:
        raise _unavailable(error, "read or changed") from error


def _unavailable(error: OSError, what: str) -> StoreUnavailable:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "is full" if is_full else f"cannot be {what} ({errno.errorcode.get(error.errno or 0, 'OSError')})"
    return StoreUnavailable(f"The folder of jobs {reason}; try again later.")


def _raise_unless_gone(_work: object, _path: str, info: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk: a file's own fsync does not."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
