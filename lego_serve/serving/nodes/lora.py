"""The LoRA LoRA node: finds adapters, checks and converts them, keeps them, and hands them out by content hash.

Asked which adapters a request means, it answers as soon as it knows what of a model they change, and begins their
loads, so that these go on while prompts are encoded and lanes wait.  For one whose file it has not read yet it takes
the file's header; whoever is to use one then asks for its hash, and for its bytes.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lego_serve.core.addons import AdapterRequest, LoadedAdapter, check_contents
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.errors import CheckpointError, InvalidAdapter, LegoError, NotFound, RequestError, with_param
from lego_serve.models.lora.checkpoint import refusal
from lego_serve.models.lora.loading import base_layers, card_of, load_adapter
from lego_serve.models.registry import ModelSpec, profile_folder
from lego_serve.serving.caches.loading_cache import LoadingCache
from lego_serve.serving.nodes.adapter_index import AdapterIndex, AdapterInfo, AdapterRead, Signature
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry

log = logging.getLogger("lego_serve.nodes")
LINGER_S = 10.0
LAST = "transformer"  # of a request's components the denoiser asks last: its prompts are encoded before


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A converted adapter as bytes, and the seconds its load took."""

    data: np.ndarray
    load_s: float


class LoraNode:
    """The adapters of one base model."""

    def __init__(
        self,
        spec: ModelSpec,
        roots: Sequence[Path],
        cache_bytes: int,
        registry_limit: int = 0,
        storage_s: float = 0.0,
        profiles: str | None = None,
        early_start: bool = False,
        registry: str | None = None,
        own_profiles: str | None = None,
    ) -> None:
        for root in roots:
            if not root.is_dir():
                raise CheckpointError(f"model {spec.name}: no folder {root} of adapters")
        self._base = base_layers(spec)
        file = None if registry is None else Path(registry).expanduser()
        self._registry = AdapterRegistry(roots, registry_limit, file)
        self._index = AdapterIndex(self._registry, self._base, self._ratio, self._was_read, storage_s)
        self._cache: LoadingCache[_Bytes] = LoadingCache(cache_bytes, LINGER_S)
        self._early_start = early_start
        self._profiles = None if profiles is None else Path(profiles).expanduser()
        self._own_profiles = None if own_profiles is None else Path(own_profiles)

    async def run(self, call: NodeCall) -> NodeResult:
        """Resolve a request's adapters, hand out the hash or bytes of one, or do what an operator wants of them."""
        started = time.monotonic()
        inputs: Any = call.inputs
        try:
            match call.kind:
                case "load_adapters":
                    value: Any = {"adapters": await self._all(inputs["lora"])}
                    self._prewarm()
                case "identify_adapter":
                    value = await self._identify(inputs["name"], inputs["version"])
                case "fetch_adapter":
                    value = await self._fetch(inputs["name"], inputs["sha256"], inputs["components"])
                case "names_adapter":
                    value = {"adapters": await asyncio.to_thread(self._registry.names)}
                case "list_adapter":
                    value = {"adapters": await self._list()}
                case "show_adapter":
                    value = {"adapters": {inputs["name"]: await asyncio.to_thread(self._card, inputs["name"])}}
                case "register_adapter":
                    value = await self._register(inputs["name"], inputs["path"])
                case "remove_adapter":
                    self._registry.remove(inputs["name"])
                    value = {}
                case _:
                    raise RequestError(f"The LoRA node does not know {call.kind}.")
        except LegoError as error:
            return NodeResult(error=error)
        return NodeResult(value, TaskStats(run_s=time.monotonic() - started))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    async def _all(self, asks: Sequence[AdapterRequest]) -> tuple[LoadedAdapter, ...]:
        """What the adapters of a request are.  Raises NotFound, InvalidAdapter, or RequestError for one named twice."""
        once = {ask.name: ask for ask in reversed(asks)}
        found = await _side_by_side(self._resolve(ask) for ask in asks if once[ask.name] is ask)
        check_contents(found)
        return tuple(found)

    async def _resolve(self, ask: AdapterRequest) -> LoadedAdapter:
        """What an adapter is; its load is begun if it is not here.  Raises NotFound or InvalidAdapter."""
        known = await self._index.look(ask.name)
        if isinstance(known, AdapterInfo):
            is_warm = self._asked(ask.name, known)
            ratio = known.early_ratio if self._early_start else 0.0
            parts = known.has_text, ratio, is_warm, known.has_denoiser
            return LoadedAdapter(ask, known.sha256, known.size_bytes, *parts)
        has_text, has_denoiser = await self._index.changes(ask.name)
        reading = self._index.reading(ask.name, known)
        reading.add_done_callback(lambda done: self._asked_before(ask.name, done))
        # Nothing of its content is vouched for until it has been read: no step may run before.
        return LoadedAdapter(ask, "", 0, has_text, has_denoiser=has_denoiser, version=_version(known))

    def _asked(self, name: str, known: AdapterInfo) -> bool:
        """Count a request for an adapter, and begin its load; answers whether it is here."""
        is_warm = self._cache.touch(known.sha256)
        if not is_warm:
            self._begin(name, known, wanted=True)
        return is_warm

    def _asked_before(self, name: str, done: "asyncio.Task[AdapterInfo]") -> None:
        """The same for a request that came before its file was read."""
        if not done.cancelled() and done.exception() is None:
            self._asked(name, done.result())

    def _was_read(self, reading: AdapterRead) -> None:
        """An adapter has been read to get to know it: that was the longer part of its first load."""
        if reading.known.sha256 not in self._cache:
            self._begin(reading.name, reading.known, reading)

    def _begin(
        self, name: str, known: AdapterInfo, reading: AdapterRead | None = None, *, wanted: bool = False
    ) -> "asyncio.Task[Any]":
        spent_s = 0.0 if reading is None else reading.spent_s

        async def load() -> _Bytes:
            started = time.monotonic()
            found = await self._index.load(name, known.sha256) if reading is None else reading.adapter
            data = np.frombuffer(await asyncio.to_thread(found.to_bytes), np.uint8)
            return _Bytes(data, spent_s + time.monotonic() - started)

        return self._cache.start_load(known.sha256, known.size_bytes, load, wanted=wanted, spent_s=spent_s)

    async def _identify(self, name: str, version: Sequence[int]) -> dict[str, object]:
        """The hash and bytes of a file that was being read, or that a replica read that is gone."""
        known = await self._index.get(name)
        if _version(known.signature) != tuple(version):
            raise refusal(name, "was changed while it was loaded")
        return {"sha256": known.sha256, "size_bytes": known.size_bytes}

    async def _fetch(self, name: str, sha256: str, components: Sequence[str]) -> dict[str, object]:
        """The bytes of an adapter that was resolved here, or by a replica of this node that is gone.

        They are at hand for all components of a request, kept or not, until the last one has them.
        """
        kept = self._cache.peek(sha256)
        if kept is None:
            known = await self._index.get(name)
            if known.sha256 != sha256:
                raise refusal(name, "was changed while it was used")
            kept, _ = await asyncio.shield(self._begin(name, known))
        if LAST in components:
            self._cache.release_waiter(sha256)
        return {"data": kept.data, "load_s": kept.load_s}

    def _prewarm(self) -> None:
        """Load what is likely to be asked for soon, if its name is remembered."""
        if (found := self._index.named(self._cache.next_prefetch())) is not None:
            self._begin(*found)

    def _ratio(self, name: str, sha256: str) -> float:
        """The part of the steps an adapter may come late by, as its profile says; 0 without one of this very file."""
        path = profile_folder(self._registry.folder(name), self._profiles, self._own_profiles)
        try:
            said = json.loads((path / f"{name}.profile.json").read_text())
            ratio = min(max(0.0, float(said["ratio"])), 1.0)  # in this order NaN is 0
            return ratio if said["sha256"] == sha256 else 0.0
        except FileNotFoundError:
            return 0.0
        except (OSError, ValueError, OverflowError, KeyError, TypeError, RecursionError):
            log.warning("the profile of adapter %s cannot be read", name)
            return 0.0

    async def _register(self, name: str, path: str) -> dict[str, object]:
        """Register an adapter that is sound.  Raises RequestError or CapacityError."""
        self._registry.check_new(name)
        try:
            file = await asyncio.to_thread(self._registry.read_path, name, path)
            adapter = await asyncio.to_thread(load_adapter, name, file, self._base)
        except InvalidAdapter as error:
            raise with_param(error, "path") from None
        self._registry.add(name, path)
        return card_of(adapter) | {"bytes": file.size_bytes}

    async def _list(self) -> dict[str, dict[str, object]]:
        """All adapters by name; the hash of those that have been used, and whether they are kept here."""
        cards = await asyncio.to_thread(self._registry.listed)
        for name, known in self._index.remembered().items():
            if name in cards:
                cards[name] |= self._here(known.sha256)
        return cards

    def _card(self, name: str) -> dict[str, object]:
        """One adapter, read and checked.  Raises NotFound or InvalidAdapter."""
        try:
            file = self._registry.read(name)
            adapter = load_adapter(name, file, self._base)
        except (NotFound, InvalidAdapter) as error:
            raise with_param(error, "id") from None
        late = {"early_ratio": self._ratio(name, adapter.sha256)}
        return self._registry.card(name) | card_of(adapter) | late | self._here(adapter.sha256)

    def _here(self, sha256: str) -> dict[str, object]:
        return {"sha256": sha256, "in_patcher": sha256 in self._cache}


def _version(signature: Signature) -> tuple[int, ...]:
    """What of a file's signature is the same from wherever it is looked at: its bytes and its time."""
    return () if signature is None else signature[2:]


async def _side_by_side(work: Iterable[Awaitable[LoadedAdapter]]) -> list[LoadedAdapter]:
    """What all come to; when all have ended, raises what the first to fail in their order raised."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, LoadedAdapter)]
