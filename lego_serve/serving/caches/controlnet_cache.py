"""The ControlNets in a backbone replica's own process, loaded when they are asked for and kept while they are worth it.

Lanes find a ControlNet by its name in ``sources``, where it is from before they are made until they have ended, kept or
not; so many bytes are kept beyond that.
"""

import asyncio
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
class LocalControlNet:
    """A ControlNet that is loaded here; ``storage_s`` is added to every load, to try a slower storage."""

    spec: ModelSpec
    storage_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ControlNetLease:
    """A ControlNet in hand, to be given back to the shelf; whether it was at hand, else how long its load took."""

    name: str
    is_pinned: bool
    size_bytes: int
    hit: bool = True
    load_s: float = 0.0


class ControlNetCache:
    """ControlNets by name for one base model; ``sources`` is where lanes look for them."""

    def __init__(
        self,
        base: ModelSpec,
        local: Mapping[str, LocalControlNet],
        max_bytes: int,
        sources: dict[str, ControlNetSource],
        load: Callable[[ModelSpec, ModelSpec], ControlNetSource] = load_controlnet,
    ) -> None:
        self._base, self._local, self._sources, self._load = base, dict(local), sources, load
        self._cache: LoadingCache[ControlNetSource] = LoadingCache(max_bytes)
        self._users: Counter[str] = Counter()
        self._sizes = {name: _size(one.spec) for name, one in local.items()}

    def __contains__(self, name: object) -> bool:
        """Whether it is kept here, used or not."""
        return name in self._cache

    async def take(self, names: Sequence[str]) -> list[ControlNetLease]:
        """Have all of them in ``sources``, loaded side by side where they are not here.

        Raises CheckpointError, with none taken.  Names of ControlNets elsewhere are passed over.
        """
        held: list[ControlNetLease] = []
        loads = [asyncio.ensure_future(self._one(name, held)) for name in names if name in self._local]
        try:
            await asyncio.gather(*loads)
        except BaseException:
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)
            self.release(held)
            raise
        self._prewarm()
        return held

    def release(self, held: Sequence[ControlNetLease]) -> None:
        """They are no longer in use."""
        for one in held:
            if one.is_pinned:
                self._cache.release(one.name)
            self._users[one.name] -= 1
            if self._users[one.name] == 0:
                del self._users[one.name], self._sources[one.name]

    async def _one(self, name: str, held: list[ControlNetLease]) -> None:
        hit, load_s = True, 0.0
        if name in self._sources:  # in use, so it is here, kept or not
            self._cache.touch(name)
        else:
            found = await self._cache.get(name, self._sizes[name], partial(self._loaded, name))
            self._sources.setdefault(name, found.value)
            hit, load_s = found.hit, found.load_s
        self._users[name] += 1
        held.append(ControlNetLease(name, self._cache.pin(name), self._sizes[name], hit, load_s))

    async def _loaded(self, name: str) -> ControlNetSource:
        one = self._local[name]
        await asyncio.sleep(one.storage_s)
        return await asyncio.to_thread(self._load, one.spec, self._base)

    def _prewarm(self) -> None:
        """Load what is likely to be asked for soon."""
        if (name := self._cache.next_prefetch()) is not None:
            self._cache.start_load(name, self._sizes[name], partial(self._loaded, name), wanted=False)


def _size(spec: ModelSpec) -> int:
    """Bytes of its weights' files."""
    return sum(file.stat().st_size for file in model_folder(spec, "").glob("*.safetensors"))
