"""The LoRA node: finds, checks, converts and caches adapters, and serves them by content hash.

A request's adapters are resolved as soon as it is known which parts of a model they change, and their loads start then,
so that loading overlaps with prompt encoding and queueing.  For a file that has not been read yet the header is enough;
the replicas that use the adapter request its hash later, and then its bytes.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from lego_serve.core.addons import AdapterFacts, AdapterRequest, LoadedAdapter, check_contents
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import LoadAdaptersInput, LoadAdaptersOutput
from lego_serve.core.nodes.requests import (
    AdapterAdminRequest,
    AdapterBytes,
    AdapterCard,
    AdapterCards,
    AdapterIdentity,
    Done,
    FetchAdapter,
    IdentifyAdapter,
    ListAdapterNames,
    ListAdapters,
    RegisterAdapter,
    RemoveAdapter,
    ReplicaLoad,
    ShowAdapter,
)
from lego_serve.errors import CheckpointError, InvalidAdapter, LegoError, NotFound, with_param
from lego_serve.models.lora.checkpoint import refusal
from lego_serve.models.lora.loading import base_layers, card_of, load_adapter
from lego_serve.models.registry import ModelSpec, profile_folder
from lego_serve.serving.caches.loading_cache import LoadingCache, memory_of
from lego_serve.serving.nodes.adapter_index import AdapterIndex, AdapterInfo, AdapterRead
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry
from lego_serve.serving.nodes.options import LoraOptions

log = logging.getLogger("lego_serve.nodes")
LINGER_S = 10.0
MAX_LOGGED = 20  # files that are passed over, of which the log tells at the start; lists tell of all
LoraRequest: TypeAlias = LoadAdaptersInput | IdentifyAdapter | FetchAdapter | AdapterAdminRequest
LoraReply: TypeAlias = LoadAdaptersOutput | AdapterIdentity | AdapterBytes | AdapterCards | Done
LAST = "transformer"  # the component that fetches an adapter last: prompts are encoded before


class LoraNode:
    """The adapters of one base model."""

    def __init__(self, spec: ModelSpec, options: LoraOptions, clock: Callable[[], float] = time.monotonic) -> None:
        for root in options.roots:
            if not root.is_dir():
                raise CheckpointError(f"model {spec.name}: no folder {root} of adapters")
        self._base = base_layers(spec)
        self._options, self._clock = options, clock
        self._registry = AdapterRegistry(options.roots, options.registry_limit, options.registry)
        self._index = AdapterIndex(self._registry, self._base, self._on_read, clock)
        self._cache: LoadingCache[AdapterBytes] = LoadingCache(options.cache_bytes, LINGER_S, clock)
        for file in self._registry.passed_over()[:MAX_LOGGED]:
            log.warning("model %s: no adapter of %s. %s", spec.name, file.path, file.reason)

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Resolve a request's adapters, return the hash or bytes of one, or carry out an operator's command."""
        started = self._clock()
        assert isinstance(call.request, LoraRequest)
        try:
            reply = await self._reply(call.request)
        except LegoError as error:
            return NodeResult(error=error)
        return NodeResult(reply, TaskStats(run_s=self._clock() - started))

    async def _reply(self, request: LoraRequest) -> LoraReply:
        match request:
            case LoadAdaptersInput():
                adapters = await self._resolve_all(request.lora)
                self._prefetch()
                return LoadAdaptersOutput(adapters)
            case IdentifyAdapter():
                return await self._identify(request)
            case FetchAdapter():
                return await self._fetch(request)
            case ListAdapterNames():
                names = await asyncio.to_thread(self._registry.names)
                return AdapterCards({name: AdapterCard(facts) for name, facts in names.items()})
            case ListAdapters():
                return AdapterCards(await self._list(), await asyncio.to_thread(self._registry.passed_over))
            case ShowAdapter():
                card = await asyncio.to_thread(self._card, request.name)
                self._index.refresh(request.name, card.sha256 or "")
                return AdapterCards({request.name: card})
            case RegisterAdapter():
                return AdapterCards({request.name: await self._register(request.name, request.path)})
            case RemoveAdapter():
                self._registry.remove(request.name)
                return Done()

    def load(self) -> ReplicaLoad:
        """Return what it keeps of adapters."""
        return ReplicaLoad(memory=(memory_of("adapters", self._cache.ledger),))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    async def _resolve_all(self, requests: Sequence[AdapterRequest]) -> tuple[LoadedAdapter, ...]:
        """Resolve a request's adapters.  Raises NotFound, InvalidAdapter, or RequestError for one named twice."""
        once = {request.name: request for request in reversed(requests)}
        found = await _side_by_side(self._resolve(request) for request in requests if once[request.name] is request)
        check_contents(found)
        return tuple(found)

    async def _resolve(self, request: AdapterRequest) -> LoadedAdapter:
        """Resolve one adapter, starting its load.  Raises NotFound or InvalidAdapter."""
        known = await self._index.look(request.name)
        if isinstance(known, AdapterInfo):
            is_warm = self._count_request(request.name, known)
            return LoadedAdapter(
                request,
                known.sha256,
                known.size_bytes,
                known.has_text,
                early_ratio=await self._early_ratio(request.name, known.sha256),
                is_warm=is_warm,
                has_denoiser=known.has_denoiser,
            )
        has_text, has_denoiser = await self._index.changes(request.name)
        reading = self._index.reading(request.name, known)
        reading.add_done_callback(lambda done: self._count_after_read(request.name, done))
        # Its content is unchecked until the file has been read: no step may run before.
        version = () if known is None else known.content
        return LoadedAdapter(request, "", 0, has_text, has_denoiser=has_denoiser, version=version)

    async def _early_ratio(self, name: str, sha256: str) -> float:
        """Return the share of steps that may run without an adapter, by its profile as that is now."""
        return await asyncio.to_thread(self._ratio, name, sha256) if self._options.early_start else 0.0

    def _count_request(self, name: str, known: AdapterInfo) -> bool:
        """Count a request for an adapter and start its load; return whether it is cached."""
        is_warm = self._cache.touch(known.sha256)
        if not is_warm:
            self._start_load(name, known, wanted=True)
        return is_warm

    def _count_after_read(self, name: str, done: "asyncio.Task[AdapterInfo]") -> None:
        """Count the request once the file has been read."""
        if not done.cancelled() and done.exception() is None:
            self._count_request(name, done.result())

    def _on_read(self, reading: AdapterRead) -> None:
        """Finish the load of an adapter that was read for its facts: the read was the longer part of it."""
        if reading.adapter.passed_over:
            parts = " and ".join(reading.adapter.passed_over)
            log.warning("adapter %s: of its parts these change nothing here: %s", reading.name, parts)
        if reading.known.sha256 not in self._cache:
            self._start_load(reading.name, reading.known, reading)

    def _start_load(
        self, name: str, known: AdapterInfo, reading: AdapterRead | None = None, *, wanted: bool = False
    ) -> "asyncio.Task[Any]":
        spent_s = 0.0 if reading is None else reading.spent_s

        async def load() -> AdapterBytes:
            started = self._clock()
            found = await self._index.load(name, known.sha256) if reading is None else reading.adapter
            data = np.frombuffer(await asyncio.to_thread(found.to_bytes), np.uint8)
            return AdapterBytes(data, spent_s + self._clock() - started)

        return self._cache.start_load(known.sha256, known.size_bytes, load, wanted=wanted, spent_s=spent_s)

    async def _identify(self, request: IdentifyAdapter) -> AdapterIdentity:
        """Return the hash and size of a file, after its read here if another replica resolved it."""
        known = await self._index.get(request.name)
        if known.version is not None and known.version.content != request.version:
            raise refusal(request.name, "was changed while it was loaded")
        return AdapterIdentity(known.sha256, known.size_bytes)

    async def _fetch(self, request: FetchAdapter) -> AdapterBytes:
        """Return the bytes of an adapter, loading it if another replica of this node resolved it.

        They stay for all components of a request, kept or not, until the last one has them.
        """
        kept = self._cache.peek(request.sha256)
        if kept is None:
            known = await self._index.get(request.name)
            if known.sha256 != request.sha256:
                raise refusal(request.name, "was changed while it was used")
            kept, _ = await asyncio.shield(self._start_load(request.name, known))
        if LAST in request.components:
            self._cache.release_waiter(request.sha256)
        return kept

    def _prefetch(self) -> None:
        """Load the adapter that is likely to be requested next, if its name is remembered."""
        if (found := self._index.named(self._cache.next_prefetch())) is not None:
            self._start_load(*found)

    def _ratio(self, name: str, sha256: str) -> float:
        """Return the share of steps that may run before an adapter is loaded; 0 without a profile of this very file."""
        path = profile_folder(self._registry.folder(name), self._options.profiles, self._options.own_profiles)
        try:
            profile = json.loads((path / f"{name}.profile.json").read_text())
            ratio = min(max(0.0, float(profile["ratio"])), 1.0)  # in this order NaN is 0
            return ratio if profile["sha256"] == sha256 else 0.0
        except FileNotFoundError:
            return 0.0
        except (OSError, ValueError, OverflowError, KeyError, TypeError, RecursionError):
            log.warning("the profile of adapter %s cannot be read", name)
            return 0.0

    async def _register(self, name: str, path: str) -> AdapterCard:
        """Register an adapter that is sound.  Raises RequestError or CapacityError."""
        self._registry.check_new(name)
        try:
            file = await asyncio.to_thread(self._registry.read_path, name, path)
            adapter = await asyncio.to_thread(load_adapter, name, file, self._base)
        except InvalidAdapter as error:
            raise with_param(error, "path") from None
        self._registry.add(name, path)
        return AdapterCard({**card_of(adapter), "bytes": file.size_bytes}, adapter.sha256)

    async def _list(self) -> dict[str, AdapterCard]:
        """Return all adapters by name, with hash and cache state of those that have been read."""
        facts = await asyncio.to_thread(self._registry.listed)
        remembered = self._index.remembered()
        return {
            name: self._card_with_place(card, remembered[name].sha256) if name in remembered else AdapterCard(card)
            for name, card in facts.items()
        }

    def _card(self, name: str) -> AdapterCard:
        """Read and check one adapter.  Raises NotFound or InvalidAdapter."""
        try:
            file = self._registry.read(name)
            adapter = load_adapter(name, file, self._base)
        except (NotFound, InvalidAdapter) as error:
            raise with_param(error, "id") from None
        late: AdapterFacts = {"early_ratio": self._ratio(name, adapter.sha256)}
        return self._card_with_place(self._registry.card(name) | card_of(adapter) | late, adapter.sha256)

    def _card_with_place(self, facts: AdapterFacts, sha256: str) -> AdapterCard:
        return AdapterCard({**facts, "sha256": sha256}, sha256, sha256 in self._cache)


async def _side_by_side(work: Iterable[Awaitable[LoadedAdapter]]) -> list[LoadedAdapter]:
    """Await all; then raise the first failure in order."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, LoadedAdapter)]
