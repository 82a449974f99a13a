"""The adapters of one replica, pulled from the patcher as bytes and kept prepared while they are worth it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lego_serve.core.addons import LoadedAdapter, check_contents
from lego_serve.core.jobs.messages import Answer, Call
from lego_serve.errors import NodeError
from lego_serve.models.lora.adapter import Adapter
from lego_serve.serving.caches.loading_cache import Found, LoadingCache
from lego_serve.serving.errors import NodeLost

ATTEMPTS = 40
RETRY_PAUSE_S = 0.5


class Patcher(Protocol):
    """The node that has adapters."""

    async def run(self, call: Call) -> Answer:
        """Make a call.  Raises NodeLost."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """An adapter in hand: to be given back to the shelf; ``load_s`` where it was at hand nowhere."""

    loaded: LoadedAdapter
    adapter: Adapter
    hit: bool
    load_s: float
    is_pinned: bool


class AdapterShelf:
    """What of adapters belongs to some components of a model (``transformer``, ``text_encoder``, ...)."""

    def __init__(self, patcher: Patcher, components: Sequence[str], max_bytes: int) -> None:
        self._patcher, self._components = patcher, tuple(components)
        self._cache: LoadingCache[tuple[Adapter, float]] = LoadingCache(max_bytes)

    @property
    def kept(self) -> tuple[str, ...]:
        """The hashes of those that are here."""
        return self._cache.kept

    def has(self, adapters: Sequence[LoadedAdapter]) -> bool:
        """Whether all of them are here."""
        return all(adapter.sha256 in self._cache for adapter in adapters)

    async def take(self, adapters: Sequence[LoadedAdapter]) -> list[Taken]:
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

    def give_back(self, taken: Sequence[Taken]) -> None:
        """They are no longer in use."""
        for one in taken:
            if one.is_pinned:
                self._cache.release(one.loaded.sha256)

    def _unwanted(self, load: "asyncio.Future[Taken]") -> None:
        if not load.cancelled() and load.exception() is None:
            self.give_back([load.result()])

    async def _one(self, loaded: LoadedAdapter) -> Taken:
        async def load() -> tuple[Adapter, float]:
            return await self._pull(loaded)

        found: Found[tuple[Adapter, float]] = await self._cache.get(loaded.sha256, loaded.size_bytes, load)
        adapter, storage_s = found.value
        hit = found.hit or loaded.is_warm
        load_s = 0.0 if hit else max(found.load_s, storage_s)
        return Taken(loaded, adapter, hit, load_s, self._cache.pin(loaded.sha256))

    async def _pull(self, loaded: LoadedAdapter) -> tuple[Adapter, float]:
        name = loaded.ask.name
        asked = {"name": name, "sha256": loaded.sha256, "components": self._components}
        value = await self._asked(name, Call("fetch_adapter", asked))
        adapter = await asyncio.to_thread(Adapter.from_bytes, value["data"].tobytes())
        return adapter.part(*self._components), float(value["load_s"])

    async def _identified(self, loaded: LoadedAdapter) -> LoadedAdapter:
        if loaded.sha256:
            return loaded
        name = loaded.ask.name
        value = await self._asked(name, Call("identify_adapter", {"name": name, "version": loaded.version}))
        return replace(loaded, sha256=value["sha256"], size_bytes=value["size_bytes"])

    async def _asked(self, name: str, call: Call) -> Any:
        """The patcher's answer about an adapter.  Raises its error, NodeError where it is lost too often."""
        for _ in range(ATTEMPTS):
            try:
                answer = await self._patcher.run(call)
            except NodeLost:
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            if answer.error is not None:
                raise answer.error
            return answer.value
        raise NodeError(f"Adapter {name} could not be had: its node was lost {ATTEMPTS} times.")
