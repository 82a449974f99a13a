"""Finds adapter files: those under the configured roots, and those registered under names at run time.

A name is never a path.  A path that an operator registers is relative to a root, stays under it, and has no link in it;
that is checked again at every use.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lego_serve.core.adapter_files import ADAPTER_ID, PassedOver, path_parts
from lego_serve.core.addons import AdapterFacts
from lego_serve.core.caching.file_version import FileVersion
from lego_serve.core.suggest import did_you_mean
from lego_serve.errors import CapacityError, CheckpointError, InvalidAdapter, NodeError, NotFound, RequestError
from lego_serve.models.lora.checkpoint import (
    AdapterFile,
    hash_adapter_file,
    no_adapter,
    peek_adapter_file,
    read_adapter_file,
)
from lego_serve.models.lora.loading import summary_of
from lego_serve.models.lora.roots import adapter_ids, all_passed_over, files_of, find_adapter


class RegistrationFile:
    """Stores registered names and their paths; in memory alone where there is no file."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def read(self) -> dict[str, str]:
        """Return the registered paths by name.  Raises CheckpointError for a file of other content."""
        if self._file is None:
            return {}
        try:
            paths = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            paths = None
        if not isinstance(paths, dict) or not all(isinstance(path, str) for path in paths.values()):
            raise CheckpointError(f"{self._file} holds no registered adapters; mend it, or remove it to begin anew")
        return paths

    def write(self, paths: Mapping[str, str]) -> None:
        """Replace the registered paths atomically.  Raises NodeError."""
        if self._file is None:
            return
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(dict(paths), indent=1) + "\n")
            os.replace(new, self._file)
        except OSError as error:
            message = "The registry of adapters could not be written; nothing was changed."
            raise NodeError(message, code="registry_not_written") from error


class AdapterRegistry:
    """The adapters of one LoRA node; ``file`` keeps the registered names over restarts."""

    def __init__(self, roots: Sequence[Path], limit: int, file: Path | None = None) -> None:
        """Read the registered names.  Raises CheckpointError for a file of other content."""
        self._roots, self._limit = tuple(roots), limit
        self._kept = RegistrationFile(file)
        self._registered = self._kept.read()

    def read(self, name: str) -> AdapterFile:
        """Read and check an adapter's file.  Raises NotFound or InvalidAdapter."""
        return self._read_with(name, read_adapter_file)

    def peek(self, name: str) -> AdapterFile:
        """Read and check the header of an adapter's file.  Raises NotFound or InvalidAdapter."""
        return self._read_with(name, peek_adapter_file)

    def read_path(self, name: str, path: str) -> AdapterFile:
        """Read and check the file at a path under a root.  Raises RequestError, NotFound or InvalidAdapter."""
        return read_adapter_file(name, self._place(path))

    def version(self, name: str) -> FileVersion | None:
        """Return the version of an adapter's file; None if there is no file."""
        for path in self._paths(name):
            try:
                about = _status(path)
            except OSError:
                continue
            return FileVersion(about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        return None

    def content_hash(self, name: str) -> str | None:
        """Return the SHA-256 of an adapter's file as it is now; None where it cannot be read."""
        try:
            return next((hash_adapter_file(name, path) for path in self._paths(name) if path.exists()), None)
        except (InvalidAdapter, NotFound):
            return None

    def folder(self, name: str) -> Path:
        """Return the folder of an adapter's profile: the root it was found in, or its file's folder."""
        if (where := self._where(name)) is not None:
            return where.parent
        found = (root for root in self._roots for path in self._candidates(name, root) if path.exists())
        return next(found, self._roots[0])

    def names(self) -> dict[str, AdapterFacts]:
        """Return all names, each with whether it was registered at run time."""
        found: dict[str, AdapterFacts] = {name: {"registered": False} for name in adapter_ids(self._roots)}
        return found | {name: {"registered": True} for name in self._registered}

    def listed(self) -> dict[str, AdapterFacts]:
        """Return names with facts from file headers."""
        return {name: about | self._summary(name) for name, about in self.names().items()}

    def passed_over(self) -> list[PassedOver]:
        """Return the files in the roots that are no adapters, registered or not, though they may be meant as such."""
        return all_passed_over(self._roots, self._registered.values())

    def card(self, name: str) -> AdapterFacts:
        """Return an adapter's size and registered path."""
        path: AdapterFacts = {"path": self._registered[name]} if name in self._registered else {}
        return {"registered": bool(path), "bytes": self._summary(name)["bytes"], **path}

    def check_new(self, name: str) -> None:
        """Raise RequestError for an invalid or used name, CapacityError at the limit of registered names."""
        if ADAPTER_ID.fullmatch(name) is None:
            raise RequestError("`id` must be 1 to 64 of a-z, 0-9, _ and -.", param="id")
        if name in self._registered or self.version(name) is not None:
            raise RequestError("There is an adapter of this name.", param="id", code="adapter_exists")
        if len(self._registered) >= self._limit:
            message = f"No more than {self._limit} adapters can be registered; remove one first."
            raise CapacityError(message, param="id", code="registry_full", retry_after_s=60)

    def add(self, name: str, path: str) -> None:
        """Register a path under a name.  Raises as ``check_new`` does, and NodeError if it cannot be written."""
        self.check_new(name)  # once more: another call may have come meanwhile
        self._place(path)
        self._keep(self._registered | {name: path})

    def remove(self, name: str) -> None:
        """Remove a registered name.  Raises NotFound, and NodeError if that cannot be written."""
        if name not in self._registered:
            message = did_you_mean("registered adapter", name, self._registered)
            raise NotFound(message, param="id", code="adapter_not_found")
        self._keep({other: path for other, path in self._registered.items() if other != name})

    def _read_with(self, name: str, read: Callable[[str, Path], AdapterFile]) -> AdapterFile:
        if name not in self._registered:
            return find_adapter(name, self._roots, self._registered, read)
        path = self._where(name)
        if path is None:
            raise no_adapter(f"The file of adapter {name} is gone.", name)
        return read(name, path)

    def _keep(self, registered: dict[str, str]) -> None:
        self._kept.write(registered)
        self._registered = registered

    def _where(self, name: str) -> Path | None:
        """Return a registered adapter's path; None if unusable or not registered."""
        try:
            return self._place(self._registered[name]) if name in self._registered else None
        except RequestError:
            return None

    def _summary(self, name: str) -> AdapterFacts:
        """Return bytes and rank by an adapter's header, or its fault."""
        path = next((path for path in self._paths(name) if path.exists()), None)
        try:
            if path is None:
                raise no_adapter(f"The file of adapter {name} is gone.", name)
            found = summary_of(name, path)
        except (InvalidAdapter, NotFound) as error:
            return {"bytes": None, "rank": None, "fault": error.message}
        return {"bytes": found.size_bytes, "rank": found.rank}

    def _paths(self, name: str) -> list[Path]:
        """Return where a file of this name may be, the first first."""
        where = self._where(name)
        return self._candidates(name) if where is None else [where]

    def _candidates(self, name: str, *roots: Path) -> list[Path]:
        if name in self._registered or ADAPTER_ID.fullmatch(name) is None:
            return []
        return [root / file for root in roots or self._roots for file in files_of(name)]

    def _place(self, path: str) -> Path:
        parts = path_parts(path)
        for root in self._roots:
            place = root.joinpath(*parts)
            if any(root.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
                raise RequestError("`path` must have no link in it.", param="path")
            if place.is_file():
                return place
        raise NotFound("There is no such file under the configured roots.", param="path", code="adapter_not_found")


def _status(path: Path) -> os.stat_result:
    """Return a file's status after opening it: network file systems ask their server then, and not before."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # a link, or a file that must not be read
        return os.lstat(path)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
