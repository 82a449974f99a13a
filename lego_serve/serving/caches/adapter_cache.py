"""Caches a replica's adapters, fetched from the LoRA node."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from lego_serve.core.addons import LoadedAdapter, check_contents
from lego_serve.core.caching.ledger import CacheLedger
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.requests import FetchAdapter, IdentifyAdapter
from lego_serve.core.scheduling.retry import ADAPTER_FETCH, RetryPolicy
from lego_serve.core.values import NodeRequest
from lego_serve.errors import NodeError
from lego_serve.models.lora.adapter import Adapter
from lego_serve.serving.caches.loading_cache import CacheResult, LoadingCache
from lego_serve.serving.errors import NodeLost

ReplyT = TypeVar("ReplyT")


class LoraNodeHandle(Protocol):
    """The LoRA node, which loads adapters."""

    async def run(self, call: NodeCall[ReplyT]) -> NodeResult[ReplyT]:
        """Make a call.  Raises NodeLost."""
        ...


@dataclass(frozen=True, slots=True)
class AdapterLease:
    """A lease on an adapter; ``load_s`` is 0 on a cache hit."""

    loaded: LoadedAdapter
    adapter: Adapter
    hit: bool
    load_s: float
    is_pinned: bool


class AdapterCache:
    """Caches the parts of LoRA adapters that this replica's components (``transformer``, ``text_encoder``, ...) use."""

    def __init__(
        self,
        lora_node: LoraNodeHandle,
        components: Sequence[str],
        max_bytes: int,
        retry: RetryPolicy = ADAPTER_FETCH,
    ) -> None:
        self._lora_node, self._components, self._retry = lora_node, tuple(components), retry
        self._cache: LoadingCache[tuple[Adapter, float]] = LoadingCache(max_bytes)

    @property
    def kept(self) -> tuple[str, ...]:
        """The hashes of the cached adapters."""
        return self._cache.kept

    @property
    def ledger(self) -> CacheLedger:
        """The bytes in use, and those that may be."""
        return self._cache.ledger

    def has(self, adapters: Sequence[LoadedAdapter]) -> bool:
        """Return whether all adapters are cached."""
        return all(adapter.sha256 in self._cache for adapter in adapters)

    async def take(self, adapters: Sequence[LoadedAdapter]) -> list[AdapterLease]:
        """Return leases on all adapters, loading the missing ones.  Raises LegoError and then keeps no lease."""
        adapters = await self.identify(adapters)
        loads = [asyncio.ensure_future(self._lease(adapter)) for adapter in adapters]
        try:
            return await asyncio.gather(*loads)
        except BaseException:
            for load in loads:
                load.cancel()
            for load in loads:  # finished loads are released now, the others when they end
                load.add_done_callback(self._release_unused)
            raise

    async def identify(self, adapters: Sequence[LoadedAdapter]) -> list[LoadedAdapter]:
        """Return the adapters with their hashes, after their files are read.

        Raises LegoError: for a file that must not be used, or RequestError for one content under two names.
        """
        identified = list(await asyncio.gather(*map(self._identify, adapters)))
        check_contents(identified)
        return identified

    def release(self, leases: Sequence[AdapterLease]) -> None:
        """Release the leases."""
        for lease in leases:
            if lease.is_pinned:
                self._cache.release(lease.loaded.sha256)

    def _release_unused(self, load: "asyncio.Future[AdapterLease]") -> None:
        if not load.cancelled() and load.exception() is None:
            self.release([load.result()])

    async def _lease(self, loaded: LoadedAdapter) -> AdapterLease:
        async def load() -> tuple[Adapter, float]:
            return await self._pull(loaded)

        cached: CacheResult[tuple[Adapter, float]] = await self._cache.get(loaded.sha256, loaded.size_bytes, load)
        adapter, fetch_s = cached.value
        hit = cached.hit or loaded.is_warm
        load_s = 0.0 if hit else max(cached.load_s, fetch_s)
        return AdapterLease(loaded, adapter, hit, load_s, self._cache.pin(loaded.sha256))

    async def _pull(self, loaded: LoadedAdapter) -> tuple[Adapter, float]:
        fetched = await self._reply(loaded, FetchAdapter(loaded.request.name, loaded.sha256, self._components))
        adapter = await asyncio.to_thread(Adapter.from_bytes, np.asarray(fetched.data).tobytes())
        return adapter.part(*self._components), fetched.load_s

    async def _identify(self, loaded: LoadedAdapter) -> LoadedAdapter:
        if loaded.sha256:
            return loaded
        identity = await self._reply(loaded, IdentifyAdapter(loaded.request.name, loaded.version))
        return replace(loaded, sha256=identity.sha256, size_bytes=identity.size_bytes)

    async def _reply(self, loaded: LoadedAdapter, request: NodeRequest[ReplyT]) -> ReplyT:
        """Return the LoRA node's reply.  Raises its error, or NodeError where the node is lost too often."""
        for pause_s in (*self._retry.drawn(random.random), None):
            try:
                return (await self._lora_node.run(NodeCall(request))).reply
            except NodeLost:
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        message = (
            f"Adapter {loaded.request.name} could not be fetched: the LoRA node was lost {self._retry.attempts} times."
        )
        raise NodeError(message)
