"""The adapters of one replica, pulled from the LoRA node as bytes and kept prepared while they are worth it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lego_serve.core.addons import LoadedAdapter, check_contents
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.errors import NodeError
from lego_serve.models.lora.adapter import Adapter
from lego_serve.serving.caches.loading_cache import CacheResult, LoadingCache
from lego_serve.serving.errors import NodeLost

ATTEMPTS = 40
RETRY_PAUSE_S = 0.5


class LoraNodeHandle(Protocol):
    """The node that has adapters."""

    async def run(self, call: NodeCall) -> NodeResult:
        """Make a call.  Raises NodeLost."""
        ...


@dataclass(frozen=True, slots=True)
class AdapterLease:
    """An adapter in hand: to be given back to the shelf; ``load_s`` where it was at hand nowhere."""

    loaded: LoadedAdapter
    adapter: Adapter
    hit: bool
    load_s: float
    is_pinned: bool


class AdapterCache:
    """What of adapters belongs to some components of a model (``transformer``, ``text_encoder``, ...)."""

    def __init__(self, lora_node: LoraNodeHandle, components: Sequence[str], max_bytes: int) -> None:
        self._lora_node, self._components = lora_node, tuple(components)
        self._cache: LoadingCache[tuple[Adapter, float]] = LoadingCache(max_bytes)

    @property
    def kept(self) -> tuple[str, ...]:
        """The hashes of those that are here."""
        return self._cache.kept

    def has(self, adapters: Sequence[LoadedAdapter]) -> bool:
        """Whether all of them are here."""
        return all(adapter.sha256 in self._cache for adapter in adapters)

    async def take(self, adapters: Sequence[LoadedAdapter]) -> list[AdapterLease]:
        """All of them, loaded where they are not here.  Raises LegoError, with none taken."""
        adapters = await self.identified(adapters)
        loads = [asyncio.ensure_future(self._one(adapter)) for adapter in adapters]
        try:
            return await asyncio.gather(*loads)
        except BaseException:
            for load in loads:
                load.cancel()
            for load in loads:  # what has come is given back, now or when it has ended
                load.add_done_callback(self._unwanted)
            raise

    async def identified(self, adapters: Sequence[LoadedAdapter]) -> list[LoadedAdapter]:
        """The same with their hashes, once the files of all have been read.

        Raises LegoError: for a file that must not be used, or RequestError for one content under two names.
        """
        found = list(await asyncio.gather(*map(self._identified, adapters)))
        check_contents(found)
        return found

    def release(self, taken: Sequence[AdapterLease]) -> None:
        """They are no longer in use."""
        for one in taken:
            if one.is_pinned:
                self._cache.release(one.loaded.sha256)

    def _unwanted(self, load: "asyncio.Future[AdapterLease]") -> None:
        if not load.cancelled() and load.exception() is None:
            self.release([load.result()])

    async def _one(self, loaded: LoadedAdapter) -> AdapterLease:
        async def load() -> tuple[Adapter, float]:
            return await self._pull(loaded)

        found: CacheResult[tuple[Adapter, float]] = await self._cache.get(loaded.sha256, loaded.size_bytes, load)
        adapter, storage_s = found.value
        hit = found.hit or loaded.is_warm
        load_s = 0.0 if hit else max(found.load_s, storage_s)
        return AdapterLease(loaded, adapter, hit, load_s, self._cache.pin(loaded.sha256))

    async def _pull(self, loaded: LoadedAdapter) -> tuple[Adapter, float]:
        name = loaded.ask.name
        asked = {"name": name, "sha256": loaded.sha256, "components": self._components}
        value = await self._asked(name, NodeCall("fetch_adapter", asked))
        adapter = await asyncio.to_thread(Adapter.from_bytes, value["data"].tobytes())
        return adapter.part(*self._components), float(value["load_s"])

    async def _identified(self, loaded: LoadedAdapter) -> LoadedAdapter:
        if loaded.sha256:
            return loaded
        name = loaded.ask.name
        value = await self._asked(name, NodeCall("identify_adapter", {"name": name, "version": loaded.version}))
        return replace(loaded, sha256=value["sha256"], size_bytes=value["size_bytes"])

    async def _asked(self, name: str, call: NodeCall) -> Any:
        """The LoRA node's answer about an adapter.  Raises its error, NodeError where it is lost too often."""
        for _ in range(ATTEMPTS):
            try:
                answer = await self._lora_node.run(call)
            except NodeLost:
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            if answer.error is not None:
                raise answer.error
            return answer.value
        raise NodeError(f"Adapter {name} could not be had: its node was lost {ATTEMPTS} times.")
