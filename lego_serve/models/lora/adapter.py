"""An adapter as the models use it: low-rank pairs by the canonical path of the layer each belongs to.

``down`` (rank, inputs) and ``up`` (outputs, rank), with alpha / rank folded into ``up``: a layer with an
adapter of scale s computes ``x W' + s (x down') up'``.  Adapters are immutable and made of checked files only
(``loading``), so that what reaches a layer is finite by construction.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from safetensors.torch import load, save

from lego_serve.core.addons import MAX_ADDONS, MAX_SCALE, entry_param
from lego_serve.errors import RequestError


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer's low-rank product: ``down`` (rank, inputs) and ``up`` (outputs, rank)."""

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        """The inner width of the product."""
        return int(self.down.shape[0])


@dataclass(frozen=True, eq=False)
class Adapter:
    """A checked adapter; ``pairs`` by canonical path, ``sha256`` of the file it came from.

    ``passed_over`` says which parts of the file are not used, for the model lets no adapter change them.
    """

    adapter_id: str
    sha256: str
    pairs: Mapping[str, Pair]
    passed_over: tuple[str, ...] = ()

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(pair.down.nbytes + pair.up.nbytes for pair in self.pairs.values())

    def part(self, *components: str) -> "Adapter":
        """Return its part for these components (``transformer``, ``text_encoder``, ``text_encoder_2``)."""
        pairs = {path: pair for path, pair in self.pairs.items() if path.partition(".")[0] in components}
        return Adapter(self.adapter_id, self.sha256, pairs, self.passed_over)

    def to_bytes(self) -> bytes:
        """Write it as one safetensors file of canonical names, for another process of this server."""
        tensors = {}
        for path, pair in self.pairs.items():
            # Copies: a product of several layers side by side shares its down weight, which the format refuses.
            tensors[f"{path}.down"], tensors[f"{path}.up"] = pair.down.clone(), pair.up.clone()
        return save(tensors, {"adapter": json.dumps([self.adapter_id, self.sha256, self.passed_over])})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Adapter":
        """Read what ``to_bytes`` wrote; it is not checked again."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        adapter_id, sha256, passed_over = json.loads(header["__metadata__"]["adapter"])
        tensors = load(data)
        paths = sorted(name.removesuffix(".down") for name in tensors if name.endswith(".down"))
        pairs = {path: Pair(tensors[f"{path}.down"], tensors[f"{path}.up"]) for path in paths}
        return cls(adapter_id, sha256, pairs, tuple(passed_over))


Uses: TypeAlias = tuple[tuple[Adapter, float], ...]  # a set of adapters, each with its scale
SetKey: TypeAlias = tuple[tuple[str, float], ...]  # sha256 and scale of each


def in_order(uses: Sequence[tuple[Adapter, float]]) -> Uses:
    """Return a set of adapters with their scales in the order sums are taken in, without those of scale 0."""
    return tuple(sorted(((a, float(s)) for a, s in uses if s != 0), key=lambda use: use[0].sha256))


def key_of(uses: Sequence[tuple[Adapter, float]]) -> SetKey:
    """Return the key of a set of adapters: hashes and scales, in order."""
    return tuple((adapter.sha256, scale) for adapter, scale in in_order(uses))


def check_uses(uses: Sequence[tuple[str, float]]) -> None:
    """Raise RequestError for more than MAX_ADDONS ids with scales, one that repeats, or a scale out of range."""
    if len(uses) > MAX_ADDONS:
        raise RequestError(f"At most {MAX_ADDONS} adapters can be used at once.", param="lora")
    ids = [adapter_id for adapter_id, _ in uses]
    for index, (adapter_id, scale) in enumerate(uses):
        if adapter_id in ids[:index]:
            raise RequestError(f"Adapter {adapter_id} is named twice.", param=entry_param("lora", adapter_id))
        if not abs(scale) <= MAX_SCALE:  # NaN is not <= anything
            message = f"The scale of adapter {adapter_id} must be a number from -{MAX_SCALE:g} to {MAX_SCALE:g}."
            raise RequestError(message, param=entry_param("lora", adapter_id))
