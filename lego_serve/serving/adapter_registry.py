"""Where adapters are: files under the configured roots, and names given to such files at run time.

A name is never a path.  A path that an operator registers is relative to a root, stays under it, and has no link in it;
that is looked at again whenever it is used.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lego_serve.errors import CapacityError, NotFound, RequestError
from lego_serve.models.adapter_file import ADAPTER_ID, FOLDER_FILE, AdapterFile, find_adapter, read_adapter_file
from lego_serve.serving.registrations import Registrations

PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
MAX_PARTS = 8


class AdapterRegistry:
    """The adapters of one patcher; what is registered is kept in a file, where one is given."""

    def __init__(self, roots: Sequence[Path], limit: int, file: Path | None = None) -> None:
        """Raises CheckpointError for a file that holds something else."""
        self._roots, self._limit = tuple(roots), limit
        self._kept = Registrations(file)
        self._registered = self._kept.read()

    def read(self, name: str) -> AdapterFile:
        """The checked file of an adapter.  Raises NotFound or InvalidAdapter."""
        if name not in self._registered:
            return find_adapter(name, self._roots)
        path = self._where(name)
        if path is None:
            raise NotFound(f"The file of adapter {name} is gone.", param="lora", code="adapter_not_found")
        return read_adapter_file(name, path)

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

    def listed(self) -> dict[str, object]:
        """The names there are, and of each whether it was registered at run time."""
        found: dict[str, object] = {}
        for root in reversed(self._roots):
            for entry in sorted(root.iterdir()):
                name = entry.name.removesuffix(".safetensors")
                is_one = (entry / FOLDER_FILE).is_file() if entry.is_dir() else entry.name != name and entry.is_file()
                if is_one and ADAPTER_ID.fullmatch(name) and not entry.is_symlink():
                    found[name] = {"registered": False}
        return found | {name: {"registered": True} for name in self._registered}

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
            said = "There is no adapter of this name that was registered at run time."
            raise NotFound(said, param="id", code="adapter_not_found")
        self._keep({other: path for other, path in self._registered.items() if other != name})

    def _keep(self, registered: dict[str, str]) -> None:
        self._kept.write(registered)
        self._registered = registered

    def _where(self, name: str) -> Path | None:
        """Where a registered adapter is; None for one that is not registered, or whose file is no longer to be used."""
        try:
            return self._place(self._registered[name]) if name in self._registered else None
        except RequestError:
            return None

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
