"""The text encoder's node: encodes prompts to conditionings and caches them.

A LegoError crosses processes as a value, so that it arrives with its type.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import TextEncodeInput, TextEncodeOutput
from lego_serve.core.nodes.requests import MemoryUse, ReplicaLoad
from lego_serve.engine.calibration import best_batch
from lego_serve.errors import LegoError
from lego_serve.models.loading import load_text_encoder
from lego_serve.models.lora.adapter import Uses, key_of
from lego_serve.models.ragged.backbone import TextEncoder
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.registry import ModelSpec
from lego_serve.models.text import text_parts
from lego_serve.serving.caches.adapter_cache import AdapterCache, AdapterLease
from lego_serve.serving.caches.byte_lru import ByteLru
from lego_serve.serving.caches.loading_cache import memory_of
from lego_serve.serving.nodes.adapter_index import TEXT
from lego_serve.serving.nodes.host_weights import HostWeights, device_bytes
from lego_serve.serving.nodes.microbatch import MicroBatcher, Turn
from lego_serve.serving.nodes.options import TextEncoderOptions
from lego_serve.serving.nodes.peers import NodePeers
from lego_serve.serving.nodes.tensors import drop_weights, weights_bytes

SAMPLES = (  # of several lengths, one of which fills the model's window
    "a red circle",
    "",
    "two",
    "a square on a table, seen from above, in the style of an old photograph",
    "b",
    "c d",
    "e, f: g",
    "one " * 600,
    "a small yellow triangle above a large green square",
)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, and its adapters' text-encoder parts."""

    text: str
    uses: Uses


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A conditioning, and the seconds of its pass."""

    value: TextEncodeOutput
    run_s: float


@dataclass(frozen=True, slots=True)
class _Kept:
    """A cached conditioning, and the number of tokens of its prompt."""

    value: TextEncodeOutput
    tokens: int


class TextEncoderNode:
    """Encodes prompts and caches the conditionings."""

    def __init__(self, spec: ModelSpec, options: TextEncoderOptions, peers: NodePeers | None = None) -> None:
        peers = peers or NodePeers()
        torch.set_num_threads(1)
        self._encoder: TextEncoder = peers.model(partial(load_text_encoder, spec))
        size, name = options.max_batch, f"{spec.name}.text_encoder max_batch"
        self._encoder.max_batch = peers.measurements.once(name, self._best_batch) if size == "auto" else size
        self._batcher: MicroBatcher[_Prompt, _Encoded | LegoError] = MicroBatcher(
            self._encode, self._encoder.max_batch, peers.turns
        )
        self._weights_bytes = weights_bytes(self._encoder)
        self._cache: ByteLru[_Kept] = ByteLru(options.cache_bytes)
        lora_node = peers.lora_node
        self._adapters = (
            None
            if options.adapters is None or lora_node is None
            else AdapterCache(lora_node, TEXT, options.adapters.cache_bytes)
        )

    async def run(self, call: NodeCall[TextEncodeOutput]) -> NodeResult[TextEncodeOutput]:
        """Encode a prompt with the call's adapters."""
        arrived = time.monotonic()
        assert isinstance(call.request, TextEncodeInput)
        request = call.request
        leases: list[AdapterLease] = []
        try:
            leases = await self._take(request)
            uses = text_parts(tuple((lease.adapter, lease.loaded.request.scale) for lease in leases))
            key = _cache_key(call.tenant, request.prompt, uses)
            if (cached := self._cache.get(key)) is not None:
                return NodeResult(cached.value, TaskStats(cache_hit=True, text_tokens=cached.tokens))
            tokens = self._encoder.count(request.prompt)
            encoded = await self._batcher.run(_Prompt(request.prompt, uses), Turn(call.tenant, 1 / call.weight))
            if isinstance(encoded, LegoError):
                raise encoded
        except LegoError as error:
            return NodeResult(error=error)
        finally:
            if self._adapters is not None:
                self._adapters.release(leases)
        self._cache.put(key, _Kept(encoded.value, tokens))
        queue_s = max(0.0, time.monotonic() - arrived - encoded.run_s)
        return NodeResult(encoded.value, TaskStats(queue_s, encoded.run_s, text_tokens=tokens))

    def resident(self) -> tuple[str, ...]:
        """Return the hashes of the cached adapters."""
        return () if self._adapters is None else self._adapters.kept

    def load(self) -> ReplicaLoad:
        """Return what it has in hand, and what it keeps of prompts and adapters."""
        batcher, kept = self._batcher, self._cache
        memory = [
            MemoryUse("weights", self._weights_bytes),
            MemoryUse("prompts", kept.bytes, kept.max_bytes, kept.evicted),
        ]
        if self._adapters is not None:
            memory.append(memory_of("adapters", self._adapters.ledger))
        return ReplicaLoad(batcher.running, batcher.waiting, memory=tuple(memory), room=batcher.max_batch)

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    def close(self) -> None:
        """Let go of its thread and weights; nothing is in hand.  It waits for the batch under way, on any thread."""
        self.stop()
        drop_weights(self._encoder)

    def stop(self) -> int:
        """Let go of its thread likewise, and of what adapters have changed.

        Returns the bytes of its weights that lie on another device than the CPU.
        """
        self._batcher.close()
        self._encoder.adapters.forget()
        return device_bytes(self._encoder)

    def to_host(self) -> HostWeights[TextEncoder]:
        """Move the weights of a node that has stopped to host memory."""
        return HostWeights(self._encoder)

    async def _take(self, request: TextEncodeInput) -> list[AdapterLease]:
        """Lease the adapters that change text encoders; the others are not waited for."""
        adapters = () if request.adapters is None else request.adapters.adapters
        needed = [adapter for adapter in adapters if adapter.has_text and adapter.request.scale != 0]
        return [] if self._adapters is None or not needed else await self._adapters.take(needed)

    def _best_batch(self) -> int:
        return best_batch(self._sample, len(SAMPLES))

    def _sample(self, items: Sequence[int]) -> list[TextEncodeOutput]:
        return [_output(cond) for cond in self._encoder.encode_batch([SAMPLES[item] for item in items])]

    def _encode(self, prompts: Sequence[_Prompt]) -> list[_Encoded | LegoError]:
        """Encode prompts, those with equal adapters together."""
        torch.set_num_threads(1)
        encoded: list[_Encoded | LegoError] = []
        for _, group in groupby(prompts, key=lambda prompt: key_of(prompt.uses)):
            encoded += self._encode_alike(list(group))
        return encoded

    def _encode_alike(self, prompts: Sequence[_Prompt]) -> list[_Encoded | LegoError]:
        started = time.monotonic()
        try:
            conds = self._encoder.encode([prompt.text for prompt in prompts], prompts[0].uses)
        except LegoError as error:
            return [error] * len(prompts)
        values = [_output(cond) for cond in conds]
        run_s = time.monotonic() - started
        return [_Encoded(value, run_s) for value in values]


def _output(cond: Conditioning) -> TextEncodeOutput:
    """Return a conditioning in arrays of its own: a view would keep those of the whole batch in memory."""
    return TextEncodeOutput(cond.tokens.float().cpu().numpy().copy(), cond.pooled.float().cpu().numpy().copy())


def _cache_key(tenant: str, prompt: str, uses: Uses) -> str:
    """Name a tenant's prompt with the adapters it is encoded with; nothing else has the same name.

    By tenant, so that nobody learns from a hit, or from how soon it comes, what another has asked for.
    """
    adapters = repr(key_of(uses)) if uses else ""
    return f"{len(tenant)}:{tenant}{len(adapters)}:{adapters}{prompt}"
