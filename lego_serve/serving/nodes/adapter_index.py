"""Facts about adapter files: from the header at once, the rest after reading.

A file is read, checked and hashed once for all concurrent requests.  Its facts, or its fault, stay valid until the file
changes.  Whether it has is told by its version; while a change could hide in the clock's last tick, by its hash.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from lego_serve.core.caching.file_version import FileVersion, is_settled
from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.checkpoint import refusal
from lego_serve.models.lora.loading import load_adapter
from lego_serve.models.lora.names import BaseLayers
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry

MAX_REMEMBERED = 4096  # adapters whose facts are remembered
FAULT_S = 30.0  # seconds before a faulty file is read again: the storage may have been at fault
TEXT = ("text_encoder", "text_encoder_2")
HASHED_AT_ONCE = 2  # files, of those whose version is not settled


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """Facts about one version of an adapter's file, first seen at ``seen_at_s`` of the monotonic clock."""

    version: FileVersion | None
    sha256: str
    size_bytes: int
    has_text: bool
    has_denoiser: bool
    seen_at_s: float
    is_settled: bool


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a file cannot be used, and when to check it again."""

    version: FileVersion | None
    error: InvalidAdapter
    until_s: float


@dataclass(frozen=True, slots=True)
class AdapterRead:
    """An adapter that has just been read, its facts, and the seconds of the read."""

    name: str
    known: AdapterInfo
    adapter: Adapter
    spent_s: float


class AdapterIndex:
    """Remembers facts about one LoRA node's adapters; ``on_read`` is called after each first read of a file."""

    def __init__(
        self,
        registry: AdapterRegistry,
        base: BaseLayers,
        on_read: Callable[[AdapterRead], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._base, self._on_read, self._clock = registry, base, on_read, clock
        self._known: OrderedDict[str, AdapterInfo | LoadFailure] = OrderedDict()
        self._name_of: dict[str, str] = {}  # by hash
        self._readings: dict[tuple[str, FileVersion | None], asyncio.Task[AdapterInfo]] = {}
        self._hashing = asyncio.Semaphore(HASHED_AT_ONCE)

    def remembered(self) -> dict[str, AdapterInfo]:
        """Return the facts of all read adapters, by name."""
        return {name: known for name, known in self._known.items() if isinstance(known, AdapterInfo)}

    def named(self, sha256: str | None) -> tuple[str, AdapterInfo] | None:
        """Return the name and facts of an adapter by its hash; None if it is not remembered."""
        name = self._name_of.get(sha256 or "", "")
        known = self._known.get(name)
        return (name, known) if isinstance(known, AdapterInfo) and known.sha256 == sha256 else None

    async def look(self, name: str) -> AdapterInfo | FileVersion | None:
        """Return an adapter's facts, or its file's version if it is unread.

        Raises InvalidAdapter for a file whose fault is remembered.
        """
        version = await asyncio.to_thread(self._registry.version, name)
        known = self._known.get(name)
        if isinstance(known, AdapterInfo) and known.version == version:
            return known if await self._is_current(name, known) else version
        if isinstance(known, LoadFailure) and known.version == version and self._clock() < known.until_s:
            raise InvalidAdapter(known.error.message, param=known.error.param)
        return version

    async def _is_current(self, name: str, known: AdapterInfo) -> bool:
        """Return whether facts are those of the file as it is; the version has been found equal."""
        if not known.is_settled:
            async with self._hashing:
                seen_for_s, read_at_s = self._clock() - known.seen_at_s, time.time()
                sha256 = await asyncio.to_thread(self._registry.content_hash, name)
            if sha256 != known.sha256:
                return False
            if known.version is not None and is_settled(known.version, read_at_s, seen_for_s):
                self._settle(name, known)
        if name in self._known:
            self._known.move_to_end(name)
        return True

    def _settle(self, name: str, known: AdapterInfo) -> None:
        if self._known.get(name) is known:
            self._known[name] = replace(known, is_settled=True)

    def refresh(self, name: str, sha256: str) -> None:
        """Forget an adapter's facts unless they are of this content, which its file has been read to have."""
        known = self._known.get(name)
        if not isinstance(known, AdapterInfo) or known.sha256 != sha256:
            self._forget(name)

    async def changes(self, name: str) -> tuple[bool, bool]:
        """Return whether an adapter changes text encoders, and whether the denoiser, by its file's header.

        Raises NotFound, or InvalidAdapter where the header does not fit the model.
        """
        adapter = await asyncio.to_thread(lambda: load_adapter(name, self._registry.peek(name), self._base))
        return _changed_parts(adapter)

    def reading(self, name: str, version: FileVersion | None) -> "asyncio.Task[AdapterInfo]":
        """Return the task that reads a file, started if there is none; it raises NotFound or InvalidAdapter."""
        key = name, version
        if key not in self._readings:
            task = asyncio.ensure_future(self._learn(name, version))
            self._readings[key] = task
            task.add_done_callback(lambda done: self._end_reading(key, done))
        return self._readings[key]

    async def get(self, name: str) -> AdapterInfo:
        """Return an adapter's facts, after reading its file if needed.  Raises NotFound or InvalidAdapter."""
        found = await self.look(name)
        return found if isinstance(found, AdapterInfo) else await asyncio.shield(self.reading(name, found))

    async def load(self, name: str, sha256: str) -> Adapter:
        """Load a known adapter.  Raises NotFound, or InvalidAdapter where its file has changed."""
        adapter = await asyncio.to_thread(self.read, name)
        if adapter.sha256 != sha256:
            self._forget(name)
            raise refusal(name, "was changed while it was loaded")
        return adapter

    def read(self, name: str) -> Adapter:
        """Read and check an adapter's whole file.  Raises NotFound or InvalidAdapter."""
        return load_adapter(name, self._registry.read(name), self._base)

    async def _learn(self, name: str, version: FileVersion | None) -> AdapterInfo:
        started, read_at_s = self._clock(), time.time()
        adapter = await asyncio.to_thread(self.read, name)
        if await asyncio.to_thread(self._registry.version, name) != version:
            raise refusal(name, "was changed while it was read")
        settled = version is not None and is_settled(version, read_at_s, 0.0)
        known = AdapterInfo(version, adapter.sha256, adapter.size_bytes, *_changed_parts(adapter), started, settled)
        self._remember(name, known)
        self._on_read(AdapterRead(name, known, adapter, self._clock() - started))
        return known

    def _end_reading(self, key: tuple[str, FileVersion | None], done: "asyncio.Task[AdapterInfo]") -> None:
        del self._readings[key]
        fault = (
            None if done.cancelled() else done.exception()
        )  # read here, so that asyncio does not report it as never retrieved
        if isinstance(fault, InvalidAdapter):
            self._remember(key[0], LoadFailure(key[1], fault, self._clock() + FAULT_S))

    def _remember(self, name: str, what: AdapterInfo | LoadFailure) -> None:
        self._forget(name)
        self._known[name] = what
        if isinstance(what, AdapterInfo):
            self._name_of[what.sha256] = name
        while len(self._known) > MAX_REMEMBERED:
            self._forget(next(iter(self._known)))

    def _forget(self, name: str) -> None:
        old = self._known.pop(name, None)
        if isinstance(old, AdapterInfo) and self._name_of.get(old.sha256) == name:
            del self._name_of[old.sha256]


def _changed_parts(adapter: Adapter) -> tuple[bool, bool]:
    of_text = [path.startswith(TEXT) for path in adapter.pairs]
    return any(of_text), not all(of_text)
