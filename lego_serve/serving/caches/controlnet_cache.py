"""Caches the ControlNets in a backbone replica's process.

Lanes find a ControlNet by its name in ``sources``, which has it from before they are made until they have ended.  The
cache keeps ``max_bytes`` of ControlNets beyond those in use.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.model_files import model_folder
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.loading_cache import LoadingCache


@dataclass(frozen=True, slots=True)
class ControlNetLease:
    """A lease on a ControlNet; ``load_s`` is 0 on a cache hit."""

    name: str
    is_pinned: bool
    size_bytes: int
    hit: bool = True
    load_s: float = 0.0


class ControlNetCache:
    """Caches ControlNets of one base model by name; lanes look them up in ``sources``."""

    def __init__(
        self,
        base: ModelSpec,
        local: Mapping[str, ModelSpec],
        max_bytes: int,
        sources: dict[str, ControlNetSource],
        load: Callable[[ModelSpec, ModelSpec], ControlNetSource] = load_controlnet,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base, self._local, self._sources, self._load = base, dict(local), sources, load
        self._cache: LoadingCache[ControlNetSource] = LoadingCache(max_bytes, clock=clock)
        self._users: Counter[str] = Counter()
        self._sizes = {name: _size(spec) for name, spec in local.items()}

    def __contains__(self, name: object) -> bool:
        """Return whether a ControlNet is cached, in use or not."""
        return name in self._cache

    async def take(self, names: Sequence[str]) -> list[ControlNetLease]:
        """Put all ControlNets into ``sources``, loading the missing ones side by side, and return their leases.

        Raises CheckpointError and then keeps no lease.  Names of remote ControlNets are skipped.
        """
        leases: list[ControlNetLease] = []
        loads = [asyncio.ensure_future(self._lease(name, leases)) for name in names if name in self._local]
        try:
            await asyncio.gather(*loads)
        except BaseException:
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)
            self.release(leases)
            raise
        self._prefetch()
        return leases

    def release(self, leases: Sequence[ControlNetLease]) -> None:
        """Release the leases."""
        for lease in leases:
            if lease.is_pinned:
                self._cache.release(lease.name)
            self._users[lease.name] -= 1
            if self._users[lease.name] == 0:
                del self._users[lease.name], self._sources[lease.name]

    async def _lease(self, name: str, leases: list[ControlNetLease]) -> None:
        hit, load_s = True, 0.0
        if name in self._sources:  # in use, and so loaded, cached or not
            self._cache.touch(name)
        else:
            found = await self._cache.get(name, self._sizes[name], partial(self._load_source, name))
            self._sources.setdefault(name, found.value)
            hit, load_s = found.hit, found.load_s
        self._users[name] += 1
        leases.append(ControlNetLease(name, self._cache.pin(name), self._sizes[name], hit, load_s))

    async def _load_source(self, name: str) -> ControlNetSource:
        return await asyncio.to_thread(self._load, self._local[name], self._base)

    def _prefetch(self) -> None:
        """Load the ControlNet that is likely to be requested next."""
        if (name := self._cache.next_prefetch()) is not None:
            self._cache.start_load(name, self._sizes[name], partial(self._load_source, name), wanted=False)


def _size(spec: ModelSpec) -> int:
    """Return the bytes of a ControlNet's weight files."""
    return sum(file.stat().st_size for file in model_folder(spec, "").glob("*.safetensors"))
