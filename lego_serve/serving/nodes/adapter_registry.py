"""Where adapters are: files under the configured roots, and names given to such files at run time.

A name is never a path.  A path that an operator registers is relative to a root, stays under it, and has no link in it;
that is looked at again whenever it is used.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lego_serve.core.suggest import did_you_mean
from lego_serve.errors import CapacityError, CheckpointError, InvalidAdapter, NodeError, NotFound, RequestError
from lego_serve.models.lora.checkpoint import (
    ADAPTER_ID,
    FOLDER_FILE,
    AdapterFile,
    adapter_ids,
    find_adapter,
    no_adapter,
    peek_adapter_file,
    read_adapter_file,
)
from lego_serve.models.lora.loading import summary_of


class RegistrationFile:
    """Names and the paths they stand for; in memory alone where there is no file."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def read(self) -> dict[str, str]:
        """What is registered.  Raises CheckpointError for a file that holds something else."""
        if self._file is None:
            return {}
        try:
            said = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            said = None
        if not isinstance(said, dict) or not all(isinstance(path, str) for path in said.values()):
            raise CheckpointError(f"{self._file} holds no registered adapters; mend it, or remove it to begin anew")
        return said

    def write(self, paths: Mapping[str, str]) -> None:
        """Keep these in place of what was kept; whoever reads gets the old or the new whole.  Raises NodeError."""
        if self._file is None:
            return
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(dict(paths), indent=1) + "\n")
            os.replace(new, self._file)
        except OSError as error:
            said = "The registry of adapters could not be written; nothing was changed."
            raise NodeError(said, code="registry_not_written") from error


PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
MAX_PARTS = 8


class AdapterRegistry:
    """The adapters of one LoRA node; what is registered is kept in a file, where one is given."""

    def __init__(self, roots: Sequence[Path], limit: int, file: Path | None = None) -> None:
        """Raises CheckpointError for a file that holds something else."""
        self._roots, self._limit = tuple(roots), limit
        self._kept = RegistrationFile(file)
        self._registered = self._kept.read()

    def read(self, name: str) -> AdapterFile:
        """The checked file of an adapter.  Raises NotFound or InvalidAdapter."""
        return self._found(name, read_adapter_file)

    def peek(self, name: str) -> AdapterFile:
        """What the header of an adapter's file tells, checked that far.  Raises NotFound or InvalidAdapter."""
        return self._found(name, peek_adapter_file)

    def read_path(self, name: str, path: str) -> AdapterFile:
        """The checked file at a path under a root.  Raises RequestError, NotFound or InvalidAdapter."""
        return read_adapter_file(name, self._place(path))

    def signature(self, name: str) -> tuple[int, ...] | None:
        """A value that changes when an adapter's file does; None where there is none."""
        where = self._where(name)
        for path in self._candidates(name) if where is None else [where]:
            try:
                about = os.lstat(path)
            except OSError:
                continue
            return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
        return None

    def folder(self, name: str) -> Path:
        """The folder an adapter's profile lies in: the root it was found in, or where its file is."""
        if (where := self._where(name)) is not None:
            return where.parent
        found = (root for root in self._roots for path in self._candidates(name, root) if path.exists())
        return next(found, self._roots[0])

    def names(self) -> dict[str, dict[str, object]]:
        """The names there are, and of each whether it was registered at run time."""
        found: dict[str, dict[str, object]] = {name: {"registered": False} for name in adapter_ids(self._roots)}
        return found | {name: {"registered": True} for name in self._registered}

    def listed(self) -> dict[str, dict[str, object]]:
        """The same with what the headers of their files say."""
        return {name: about | self._summary(name) for name, about in self.names().items()}

    def card(self, name: str) -> dict[str, object]:
        """What the registry knows of an adapter that is there: its bytes, and where it was registered to."""
        path = {"path": self._registered[name]} if name in self._registered else {}
        return {"registered": bool(path), "bytes": self._summary(name)["bytes"], **path}

    def check_new(self, name: str) -> None:
        """Raise RequestError for a name that is none or taken, CapacityError when no more can be registered."""
        if ADAPTER_ID.fullmatch(name) is None:
            raise RequestError("`id` must be 1 to 64 of a-z, 0-9, _ and -.", param="id")
        if name in self._registered or self.signature(name) is not None:
            raise RequestError("There is an adapter of this name.", param="id", code="adapter_exists")
        if len(self._registered) >= self._limit:
            said = f"No more than {self._limit} adapters can be registered; remove one first."
            raise CapacityError(said, param="id", code="registry_full", retry_after_s=60)

    def add(self, name: str, path: str) -> None:
        """Register a path under a name.  Raises as ``check_new`` does, and NodeError where it cannot be kept."""
        self.check_new(name)  # once more: another call may have come meanwhile
        self._place(path)
        self._keep(self._registered | {name: path})

    def remove(self, name: str) -> None:
        """Forget a name that was registered.  Raises NotFound, and NodeError where that cannot be kept."""
        if name not in self._registered:
            said = did_you_mean("registered adapter", name, self._registered)
            raise NotFound(said, param="id", code="adapter_not_found")
        self._keep({other: path for other, path in self._registered.items() if other != name})

    def _found(self, name: str, read: Callable[[str, Path], AdapterFile]) -> AdapterFile:
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
        """Where a registered adapter is; None for one that is not registered, or whose file is no longer to be used."""
        try:
            return self._place(self._registered[name]) if name in self._registered else None
        except RequestError:
            return None

    def _summary(self, name: str) -> dict[str, object]:
        """Bytes and rank by the header of an adapter's file, or why there are none."""
        where = self._where(name)
        path = next((path for path in self._candidates(name) if path.exists()), None) if where is None else where
        try:
            if path is None:
                raise no_adapter(f"The file of adapter {name} is gone.", name)
            found = summary_of(name, path)
        except (InvalidAdapter, NotFound) as error:
            return {"bytes": None, "rank": None, "fault": error.message}
        return {"bytes": found.size_bytes, "rank": found.rank}

    def _candidates(self, name: str, *roots: Path) -> list[Path]:
        if name in self._registered or ADAPTER_ID.fullmatch(name) is None:
            return []
        return [
            root / file for root in roots or self._roots for file in (f"{name}.safetensors", f"{name}/{FOLDER_FILE}")
        ]

    def _place(self, path: str) -> Path:
        parts = path.split("/")
        if len(parts) > MAX_PARTS or not all(map(PART.fullmatch, parts)) or not path.endswith(".safetensors"):
            said = "`path` must lead from one of the configured roots to a .safetensors file, in plain names."
            raise RequestError(said, param="path")
        for root in self._roots:
            place = root.joinpath(*parts)
            if any(root.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
                raise RequestError("`path` must have no link in it.", param="path")
            if place.is_file():
                return place
        raise NotFound("There is no such file under the configured roots.", param="path", code="adapter_not_found")
