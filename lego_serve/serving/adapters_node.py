"""The LoRA patcher: finds adapters, checks and converts them, keeps them, and hands them out by content hash.

Asked which adapters a request means, it answers as soon as it knows them and begins their loads, so that these go on
while prompts are encoded and lanes wait; to know one it reads its file once.  Whoever is to use one then asks for its
bytes.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lego_serve.core.addons import AdapterAsk, LoadedAdapter, entry_param
from lego_serve.core.job import TaskStats
from lego_serve.core.wire import Answer, Call
from lego_serve.errors import CheckpointError, InvalidAdapter, LegoError, NotFound, RequestError, about
from lego_serve.models.adapter_file import refusal
from lego_serve.models.adapter_loading import base_layers, load_adapter
from lego_serve.models.adapter_summary import card_of
from lego_serve.models.lora import Adapter
from lego_serve.models.spec import ModelSpec, profile_folder
from lego_serve.serving.adapter_registry import AdapterRegistry
from lego_serve.serving.loading_cache import LoadingCache

log = logging.getLogger("lego_serve.nodes")
LINGER_S = 10.0
KNOWN = 4096  # adapters whose hash and size are remembered
TEXT = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of an adapter's file, as long as the file is the same."""

    signature: object
    sha256: str
    size_bytes: int
    has_text: bool
    has_denoiser: bool
    early_ratio: float


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A converted adapter as bytes, and the seconds its load took."""

    data: np.ndarray
    load_s: float


class AdaptersNode:
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
        self._cache: LoadingCache[_Bytes] = LoadingCache(cache_bytes, LINGER_S)
        self._storage_s, self._early_start = storage_s, early_start
        self._profiles = None if profiles is None else Path(profiles).expanduser()
        self._own_profiles = None if own_profiles is None else Path(own_profiles)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._name_of: dict[str, str] = {}  # by hash, of those known

    async def run(self, call: Call) -> Answer:
        """Resolve a request's adapters, hand out the bytes of one, or do what an operator wants of them."""
        started = time.monotonic()
        inputs: Any = call.inputs
        try:
            match call.kind:
                case "load_adapters":
                    value: Any = {"adapters": await self._all(inputs["lora"])}
                    self._prewarm()
                case "fetch_adapter":
                    value = await self._fetch(inputs["name"], inputs["sha256"])
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
                    raise RequestError(f"The patcher does not know {call.kind}.")
        except LegoError as error:
            return Answer(error=error)
        return Answer(value, TaskStats(run_s=time.monotonic() - started))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    async def _all(self, asks: Sequence[AdapterAsk]) -> tuple[LoadedAdapter, ...]:
        """What the adapters of a request are.  Raises NotFound, InvalidAdapter, or RequestError for one named twice."""
        found: dict[str, LoadedAdapter] = {}
        for ask, adapter in zip(asks, await _side_by_side(self._resolve(ask) for ask in asks), strict=True):
            other = found.setdefault(adapter.sha256, adapter).ask.name
            if other != ask.name:
                said = f"Adapters {other} and {ask.name} have the same content; name one, with the sum of their scales."
                raise RequestError(said, param=entry_param("lora", ask.name), code="duplicate_content")
        return tuple(found.values())

    async def _resolve(self, ask: AdapterAsk) -> LoadedAdapter:
        """What an adapter is; its load is begun if it is not here.  Raises NotFound or InvalidAdapter."""
        known = await self._know(ask.name)
        is_warm = self._cache.touch(known.sha256)
        if not is_warm:
            self._begin(ask.name, known, wanted=True)
        ratio = known.early_ratio if self._early_start else 0.0
        return LoadedAdapter(ask, known.sha256, known.size_bytes, known.has_text, ratio, is_warm, known.has_denoiser)

    async def _know(self, name: str) -> _Known:
        signature = await asyncio.to_thread(self._registry.signature, name)
        known = self._known.get(name)
        if known is None or known.signature != signature:
            adapter = await asyncio.to_thread(self._read, name)
            ratio = await asyncio.to_thread(self._ratio, name, adapter.sha256)
            has_text = any(path.startswith(TEXT) for path in adapter.pairs)
            has_denoiser = any(not path.startswith(TEXT) for path in adapter.pairs)
            known = _Known(signature, adapter.sha256, adapter.size_bytes, has_text, has_denoiser, ratio)
            self._known[name] = known
            self._name_of[known.sha256] = name
            # It has just been read: its first load is that, and whatever storage is made to take.
            if known.sha256 not in self._cache:
                self._begin(name, known, adapter)
        self._known.move_to_end(name)
        while len(self._known) > KNOWN:
            forgotten, what = self._known.popitem(last=False)
            if self._name_of.get(what.sha256) == forgotten:
                del self._name_of[what.sha256]
        return known

    def _begin(
        self, name: str, known: _Known, adapter: Adapter | None = None, *, wanted: bool = False
    ) -> "asyncio.Task[Any]":
        async def load() -> _Bytes:
            started = time.monotonic()
            await asyncio.sleep(self._storage_s)
            found = await asyncio.to_thread(self._read, name) if adapter is None else adapter
            if found.sha256 != known.sha256:
                self._known.pop(name, None)
                raise refusal(name, "was changed while it was loaded")
            data = np.frombuffer(await asyncio.to_thread(found.to_bytes), np.uint8)
            return _Bytes(data, time.monotonic() - started)

        return self._cache.begin(known.sha256, known.size_bytes, load, wanted=wanted)

    async def _fetch(self, name: str, sha256: str) -> dict[str, object]:
        """The bytes of an adapter that was resolved here, or by a replica of this node that is gone."""
        if (kept := self._cache.peek(sha256)) is not None:
            self._cache.collected(sha256)
            return {"data": kept.data, "load_s": kept.load_s}
        known = await self._know(name)
        if known.sha256 != sha256:
            raise refusal(name, "was changed while it was used")
        loaded, _ = await asyncio.shield(self._begin(name, known))
        self._cache.collected(sha256)
        return {"data": loaded.data, "load_s": loaded.load_s}

    def _read(self, name: str) -> Adapter:
        return load_adapter(name, self._registry.read(name), self._base)

    def _prewarm(self) -> None:
        """Load what is likely to be asked for soon, if its name is remembered."""
        name = self._name_of.get(self._cache.ahead() or "")
        if name is not None and name in self._known:
            self._begin(name, self._known[name])

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
            raise about(error, "path") from None
        self._registry.add(name, path)
        return card_of(adapter) | {"bytes": file.size_bytes}

    async def _list(self) -> dict[str, dict[str, object]]:
        """All adapters by name; the hash of those that have been used, and whether they are kept here."""
        cards = await asyncio.to_thread(self._registry.listed)
        for name, known in self._known.items():
            if name in cards:
                cards[name] |= self._here(known.sha256)
        return cards

    def _card(self, name: str) -> dict[str, object]:
        """One adapter, read and checked.  Raises NotFound or InvalidAdapter."""
        try:
            file = self._registry.read(name)
            adapter = load_adapter(name, file, self._base)
        except (NotFound, InvalidAdapter) as error:
            raise about(error, "id") from None
        late = {"early_ratio": self._ratio(name, adapter.sha256)}
        return self._registry.card(name) | card_of(adapter) | late | self._here(adapter.sha256)

    def _here(self, sha256: str) -> dict[str, object]:
        return {"sha256": sha256, "in_patcher": sha256 in self._cache}


async def _side_by_side(work: Iterable[Awaitable[LoadedAdapter]]) -> list[LoadedAdapter]:
    """What all come to; when all have ended, raises what the first to fail in their order raised."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, LoadedAdapter)]
