"""What a LoRA node knows of its adapters' files: what a header tells at once, the rest when a file has been read.

A file is read whole, checked and hashed once for all who ask meanwhile, beside whatever else goes on.  What came of it
holds for as long as the file is the same, a fault too.
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

MAX_REMEMBERED = 4096  # adapters of which something is remembered
FAULT_S = 30.0  # a fault is believed for so long: it may have been the storage's
TEXT = ("text_encoder", "text_encoder_2")
Signature = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What is remembered of an adapter's file, as long as the file is the same."""

    signature: Signature
    sha256: str
    size_bytes: int
    has_text: bool
    has_denoiser: bool
    early_ratio: float


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a file cannot be used, and until when that is believed."""

    signature: Signature
    error: InvalidAdapter
    until_s: float


@dataclass(frozen=True, slots=True)
class AdapterRead:
    """An adapter that has just been read: what is known of it, and the seconds that took."""

    name: str
    known: AdapterInfo
    adapter: Adapter
    spent_s: float


class AdapterIndex:
    """The adapters of one LoRA node; ``was_read`` is told of each whenever its file has been read to get to know it.

    ``storage_s`` is added to every reading, to try a slower storage.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        base: BaseLayers,
        ratio: Callable[[str, str], float],
        was_read: Callable[[AdapterRead], None],
        storage_s: float,
    ) -> None:
        self._registry, self._base, self._ratio, self._was_read = registry, base, ratio, was_read
        self._storage_s = storage_s
        self._known: OrderedDict[str, AdapterInfo | LoadFailure] = OrderedDict()
        self._name_of: dict[str, str] = {}  # by hash
        self._readings: dict[tuple[str, Signature], asyncio.Task[AdapterInfo]] = {}

    def remembered(self) -> dict[str, AdapterInfo]:
        """What is known of those that have been read, by name."""
        return {name: known for name, known in self._known.items() if isinstance(known, AdapterInfo)}

    def named(self, sha256: str | None) -> tuple[str, AdapterInfo] | None:
        """The adapter of a hash; None where its name is not remembered."""
        name = self._name_of.get(sha256 or "", "")
        known = self._known.get(name)
        return (name, known) if isinstance(known, AdapterInfo) and known.sha256 == sha256 else None

    async def look(self, name: str) -> AdapterInfo | Signature:
        """What is known of an adapter whose file has been read, else the signature of its file.

        Raises InvalidAdapter for one whose fault is known.
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
        """Whether an adapter changes text encoders, and whether the denoiser, by the header of its file.

        Raises NotFound, and InvalidAdapter for what the header tells to be unfit.
        """
        adapter = await asyncio.to_thread(lambda: load_adapter(name, self._registry.peek(name), self._base))
        return _changes(adapter)

    def reading(self, name: str, signature: Signature) -> "asyncio.Task[AdapterInfo]":
        """The reading of a file, begun if it is not under way; raises NotFound or InvalidAdapter."""
        key = name, signature
        if key not in self._readings:
            task = asyncio.ensure_future(self._learn(name, signature))
            self._readings[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return self._readings[key]

    async def get(self, name: str) -> AdapterInfo:
        """What is known of an adapter, read if it has not been.  Raises NotFound or InvalidAdapter."""
        found = await self.look(name)
        return found if isinstance(found, AdapterInfo) else await asyncio.shield(self.reading(name, found))

    async def load(self, name: str, sha256: str) -> Adapter:
        """An adapter that is known.  Raises NotFound, or InvalidAdapter where it is no longer the same."""
        await asyncio.sleep(self._storage_s)
        adapter = await asyncio.to_thread(self.read, name)
        if adapter.sha256 != sha256:
            self._forget(name)
            raise refusal(name, "was changed while it was loaded")
        return adapter

    def read(self, name: str) -> Adapter:
        """An adapter, its file read whole and checked.  Raises NotFound or InvalidAdapter."""
        return load_adapter(name, self._registry.read(name), self._base)

    async def _learn(self, name: str, signature: Signature) -> AdapterInfo:
        started = time.monotonic()
        await asyncio.sleep(self._storage_s)
        adapter = await asyncio.to_thread(self.read, name)
        ratio = await asyncio.to_thread(self._ratio, name, adapter.sha256)
        if await asyncio.to_thread(self._registry.signature, name) != signature:
            raise refusal(name, "was changed while it was read")
        known = AdapterInfo(signature, adapter.sha256, adapter.size_bytes, *_changes(adapter), ratio)
        self._remember(name, known)
        self._was_read(AdapterRead(name, known, adapter, time.monotonic() - started))
        return known

    def _done(self, key: tuple[str, Signature], done: "asyncio.Task[AdapterInfo]") -> None:
        del self._readings[key]
        fault = None if done.cancelled() else done.exception()  # asked for here, so that none is reported as unheard
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


def _changes(adapter: Adapter) -> tuple[bool, bool]:
    of_text = [path.startswith(TEXT) for path in adapter.pairs]
    return any(of_text), not all(of_text)
