"""The model nodes: plain classes that Ray Serve runs, one deployment a model and component.

Values cross as dicts of numpy arrays; an error that is somebody's fault crosses as a value too, so
that it arrives as what it is.
"""

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

from lego_serve.core.addons import LoadedAdapter
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.engine.calibration import best_batch
from lego_serve.errors import LegoError
from lego_serve.models.loading import load_text_encoder
from lego_serve.models.lora.adapter import Uses, key_of
from lego_serve.models.registry import ModelSpec
from lego_serve.models.text import text_parts
from lego_serve.serving.caches.adapter_cache import AdapterCache, AdapterLease, LoraNodeHandle
from lego_serve.serving.caches.byte_lru import ByteLru
from lego_serve.serving.nodes.adapter_index import TEXT
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.controlnet import ControlNetNode
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.microbatch import MicroBatcher
from lego_serve.serving.nodes.vae import VaeNode

Arrays = dict[str, np.ndarray]
Wanted = tuple[str, Uses]  # a prompt, and what of adapters it is encoded with


def _one_thread() -> None:
    torch.set_num_threads(1)


class TextEncoderNode:
    """Encodes prompts and remembers them."""

    def __init__(
        self,
        spec: ModelSpec,
        max_batch: int | str,
        cache_bytes: int,
        lora_node: LoraNodeHandle | None = None,
        adapter_bytes: int = 0,
    ) -> None:
        _one_thread()
        self._encoder = load_text_encoder(spec)
        self._encoder.max_batch = best_batch(self._sample) if max_batch == "auto" else int(max_batch)
        self._batcher: MicroBatcher[Wanted, tuple[Arrays, float] | LegoError] = MicroBatcher(
            self._encode, self._encoder.max_batch
        )
        self._cache = ByteLru(cache_bytes)
        self._shelf = None if lora_node is None else AdapterCache(lora_node, TEXT, adapter_bytes)

    async def run(self, call: NodeCall) -> NodeResult:
        """Encode ``prompt``, with what ``adapters`` change in the encoder."""
        arrived = time.monotonic()
        prompt = str(call.inputs["prompt"])
        taken: list[AdapterLease] = []
        try:
            taken = await self._take(call)
            uses = text_parts(tuple((one.adapter, one.loaded.ask.scale) for one in taken))
            key = _cache_key(prompt, uses)
            if (kept := self._cache.get(key)) is not None:
                return NodeResult(kept, TaskStats(cache_hit=True))
            self._encoder.check(prompt)
            said = await self._batcher.run((prompt, uses))
            if isinstance(said, LegoError):
                raise said
        except LegoError as error:
            return NodeResult(error=error)
        finally:
            if self._shelf is not None:
                self._shelf.release(taken)
        value, run_s = said
        self._cache.put(key, value)
        return NodeResult(value, TaskStats(max(0.0, time.monotonic() - arrived - run_s), run_s))

    def resident(self) -> tuple[str, ...]:
        """The adapters that are here, by their hashes."""
        return () if self._shelf is None else self._shelf.kept

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    async def _take(self, call: NodeCall) -> list[AdapterLease]:
        """The adapters of a call that change text encoders; those that do not are not waited for."""
        given: Any = call.inputs.get("adapters")
        adapters: tuple[LoadedAdapter, ...] = () if given is None else given["adapters"]
        needed = [adapter for adapter in adapters if adapter.has_text and adapter.ask.scale != 0]
        return [] if self._shelf is None or not needed else await self._shelf.take(needed)

    def _sample(self, count: int) -> torch.Tensor:
        prompts = ["a red circle", "two", "", "a square on a table", "b", "c d", "e f g", "h"][:count]
        return torch.stack([c.tokens for c in self._encoder.encode_batch(prompts)])

    def _encode(self, wanted: Sequence[Wanted]) -> list[tuple[Arrays, float] | LegoError]:
        """Conditionings, each with the seconds that all prompts of its set of adapters ran; or why there are none."""
        _one_thread()
        made: list[tuple[Arrays, float] | LegoError] = []
        for _, group in groupby(wanted, key=lambda each: key_of(each[1])):
            made += self._encode_alike(list(group))
        return made

    def _encode_alike(self, wanted: Sequence[Wanted]) -> list[tuple[Arrays, float] | LegoError]:
        started = time.monotonic()
        try:
            conds = self._encoder.encode([prompt for prompt, _ in wanted], wanted[0][1])
        except LegoError as error:
            return [error] * len(wanted)
        values: list[Arrays] = [
            {"tokens": c.tokens.float().cpu().numpy(), "pooled": c.pooled.float().cpu().numpy()} for c in conds
        ]
        run_s = time.monotonic() - started
        return [(value, run_s) for value in values]


def _cache_key(prompt: str, uses: Uses) -> str:
    """A prompt with the set it is encoded with; no other pair has the same."""
    adapters = repr(key_of(uses)) if uses else ""
    return f"{len(adapters)}:{adapters}{prompt}"


NODES: dict[str, Any] = {
    "text_encoder": TextEncoderNode,
    "vae": VaeNode,
    "backbone": BackboneNode,
    "adapters": LoraNode,
    "controlnet": ControlNetNode,
}
