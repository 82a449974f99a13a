"""Facts about adapter files: from the header at once, the rest after reading.

A file is read, checked and hashed once for all concurrent requests.  Its facts, or its fault, stay valid until the file
changes.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.checkpoint import refusal
from lego_serve.models.lora.keys import BaseLayers
from lego_serve.models.lora.loading import load_adapter
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry

MAX_REMEMBERED = 4096  # adapters whose facts are remembered
FAULT_S = 30.0  # seconds before a faulty file is read again: the storage may have been at fault
TEXT = ("text_encoder", "text_encoder_2")
Signature = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """Facts about one version of an adapter's file."""

    signature: Signature
    sha256: str
    size_bytes: int
    has_text: bool
    has_denoiser: bool
    early_ratio: float


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a file cannot be used, and when to check it again."""

    signature: Signature
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
        ratio: Callable[[str, str], float],
        on_read: Callable[[AdapterRead], None],
    ) -> None:
        self._registry, self._base, self._ratio, self._on_read = registry, base, ratio, on_read
        self._known: OrderedDict[str, AdapterInfo | LoadFailure] = OrderedDict()
        self._name_of: dict[str, str] = {}  # by hash
        self._readings: dict[tuple[str, Signature], asyncio.Task[AdapterInfo]] = {}

    def remembered(self) -> dict[str, AdapterInfo]:
        """Return the facts of all read adapters, by name."""
        return {name: known for name, known in self._known.items() if isinstance(known, AdapterInfo)}

    def named(self, sha256: str | None) -> tuple[str, AdapterInfo] | None:
        """Return the name and facts of an adapter by its hash; None if it is not remembered."""
        name = self._name_of.get(sha256 or "", "")
        known = self._known.get(name)
        return (name, known) if isinstance(known, AdapterInfo) and known.sha256 == sha256 else None

    async def look(self, name: str) -> AdapterInfo | Signature:
        """Return an adapter's facts, or its file's signature if it is unread.

        Raises InvalidAdapter for a file whose fault is remembered.
        """
        signature = await asyncio.to_thread(self._registry.signature, name)
        known = self._known.get(name)
        if isinstance(known, AdapterInfo) and known.signature == signature:
            self._known.move_to_end(name)
            return known
        if isinstance(known, LoadFailure) and known.signature == signature and time.monotonic() < known.until_s:
            raise InvalidAdapter(known.error.message, param=known.error.param)
        return signature

    async def changes(self, name: str) -> tuple[bool, bool]:
        """Return whether an adapter changes text encoders, and whether the denoiser, by its file's header.

        Raises NotFound, or InvalidAdapter where the header does not fit the model.
        """
        adapter = await asyncio.to_thread(lambda: load_adapter(name, self._registry.peek(name), self._base))
        return _changed_parts(adapter)

    def reading(self, name: str, signature: Signature) -> "asyncio.Task[AdapterInfo]":
        """Return the task that reads a file, started if there is none; it raises NotFound or InvalidAdapter."""
        key = name, signature
        if key not in self._readings:
            task = asyncio.ensure_future(self._learn(name, signature))
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

    async def _learn(self, name: str, signature: Signature) -> AdapterInfo:
        started = time.monotonic()
        adapter = await asyncio.to_thread(self.read, name)
        ratio = await asyncio.to_thread(self._ratio, name, adapter.sha256)
        if await asyncio.to_thread(self._registry.signature, name) != signature:
            raise refusal(name, "was changed while it was read")
        known = AdapterInfo(signature, adapter.sha256, adapter.size_bytes, *_changed_parts(adapter), ratio)
        self._remember(name, known)
        self._on_read(AdapterRead(name, known, adapter, time.monotonic() - started))
        return known

    def _end_reading(self, key: tuple[str, Signature], done: "asyncio.Task[AdapterInfo]") -> None:
        del self._readings[key]
        fault = (
            None if done.cancelled() else done.exception()
        )  # read here, so that asyncio does not report it as never retrieved
        if isinstance(fault, InvalidAdapter):
            self._remember(key[0], LoadFailure(key[1], fault, time.monotonic() + FAULT_S))

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
