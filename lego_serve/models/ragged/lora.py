"""The layers of a model that adapters change, and the two ways to change them.

*Patched*: the weights themselves become ``W + s up down``; a pristine copy of each touched weight is kept and
put back bit for bit.  *Grouped*: the weights stay, and the rows of each lane that has adapters get
its own low-rank products added, lanes of different sets side by side.  While layers are patched with a set,
lanes of just that set may run; for any others the layers are restored first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from lego_kernels import Segments
from lego_serve.core.addons import entry_param
from lego_serve.core.scheduling.lora_mode import AdapterSet
from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Adapter, SetKey, Uses, in_order, key_of
from lego_serve.models.lora.targets import StreamOf
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import Linear, Part
from lego_serve.models.ragged.lora_products import GroupedLora, PackedLora, Product, pack_lora
from lego_serve.models.ragged.packing import Packing

MAX_STACK_BYTES = 1 << 30
Stacks = dict[int, PackedLora]  # by the layer's number


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model's layer is: the number of our layer and the part of its outputs."""

    layer: int
    part: Part


class LoraLayers:
    """The layers of one model that adapters may change.

    ``layers`` are whatever has a ``weight`` and, where products are to be grouped, a place ``added``;
    ``stream_of`` says which rows each sees, and is None where nothing is grouped.
    """

    def __init__(
        self,
        layers: Iterable[tuple[Any, Sequence[Part]]],
        stream_of: StreamOf | None = None,
        max_stack_bytes: int = MAX_STACK_BYTES,
    ) -> None:
        known = list(layers)
        self._layers = [layer for layer, _ in known]
        self._places = {part.path: Place(i, part) for i, (_, parts) in enumerate(known) for part in parts}
        self._streams = [stream_of(parts[0].path) if stream_of and parts else "" for _, parts in known]
        self._pristine: dict[int, torch.Tensor] = {}
        self._patched: SetKey = ()
        self._stacks: OrderedDict[SetKey, tuple[Stacks, int]] = OrderedDict()
        self._composed: tuple[object, dict[int, GroupedLora]] | None = None
        self._max_stack_bytes = max_stack_bytes

    @classmethod
    def of(cls, layers: Iterable[Linear], stream_of: StreamOf) -> "LoraLayers":
        """A backbone's layers, each with the parts it remembers, and which rows they see."""
        return cls([(layer, layer.parts) for layer in layers if layer.parts], stream_of)

    @classmethod
    def of_modules(cls, modules: Mapping[str, torch.nn.Module]) -> "LoraLayers":
        """The linear layers of modules by component, which can be patched but not grouped."""
        named = ((f"{name}.{path}", layer) for name, m in modules.items() for path, layer in m.named_modules())
        own = [(path, layer) for path, layer in named if isinstance(layer, torch.nn.Linear)]
        return cls([(layer, (Part(path, 0, layer.out_features),)) for path, layer in own])

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Canonical path to (outputs, inputs) of every layer an adapter may change."""
        return {
            path: (place.part.stop - place.part.start, int(self._layers[place.layer].weight.shape[1]))
            for path, place in self._places.items()
        }

    @property
    def patched(self) -> SetKey:
        """The set the weights are patched with; empty while they are the model's own."""
        return self._patched

    def check(self, adapter: Adapter) -> None:
        """Raise InvalidAdapter for an adapter of layers that are not here, or of other shapes."""
        param = entry_param("lora", adapter.adapter_id)
        for path, pair in adapter.pairs.items():
            place = self._places.get(path)
            if place is None:
                raise InvalidAdapter(f"Adapter {adapter.adapter_id} changes a layer this model lacks.", param=param)
            weight = self._layers[place.layer].weight
            needed = (place.part.stop - place.part.start, int(weight.shape[1]))
            if (pair.up.shape[0], pair.down.shape[1]) != needed or pair.down.shape[0] != pair.up.shape[1]:
                raise InvalidAdapter(f"Adapter {adapter.adapter_id} was made for another model.", param=param)

    def weigh(self, uses: Uses) -> AdapterSet:
        """A set's name, the multiplications a row pays for it when grouped, and the weights patching rewrites."""
        touched = self._touched(in_order(uses))
        grouped = sum(
            down.numel() + up.numel()
            for number, products in touched.items()
            if self._streams[number] != "branch"
            for _, down, up, _ in products
        )
        return AdapterSet(key_of(uses), grouped, sum(self._layers[number].weight.numel() for number in touched))

    @torch.inference_mode()
    def patch(self, uses: Uses) -> None:
        """Make the weights those of the model with this set (none: the model's own), from pristine copies.

        Raises InvalidAdapter before anything is touched.  Whatever else goes wrong, the weights are pristine after.
        """
        uses = in_order(uses)
        if key_of(uses) == self._patched:
            return
        touched = self._touched(uses)
        try:
            for number in [n for n in self._pristine if n not in touched]:
                self._restore_layer(number)
            for number, products in touched.items():
                self._patch_layer(number, products)
        except BaseException:
            self.restore()
            raise
        self._patched = key_of(uses)

    @torch.inference_mode()
    def restore(self) -> None:
        """Put the pristine weights back, bit for bit."""
        for number in list(self._pristine):
            self._restore_layer(number)
        self._patched = ()

    @contextmanager
    def applied(self, lanes: Sequence[LaneInput], packing: Packing) -> Iterator[None]:
        """Each lane's adapters at work in its own rows: as the weights are patched, or grouped."""
        keys = [key_of(lane.adapters) for lane in lanes] if any(lane.adapters for lane in lanes) else []
        if not any(keys):
            if self._patched:
                self.restore()
            yield
            return
        if self._patched:
            if all(key == self._patched for key in keys):
                yield
                return
            self.restore()
        products = self._products(lanes, keys, packing)
        for number, product in products.items():
            self._layers[number].added = product
        try:
            yield
        finally:
            for number in products:
                self._layers[number].added = None

    def _patch_layer(self, number: int, products: Sequence[Product]) -> None:
        weight = self._layers[number].weight
        if number in self._pristine:
            weight.copy_(self._pristine[number])
        else:
            self._pristine[number] = weight.detach().clone()
        for part, down, up, scale in products:
            weight[part.start : part.stop].addmm_(up.to(weight), down.to(weight), alpha=scale)

    def _restore_layer(self, number: int) -> None:
        self._layers[number].weight.copy_(self._pristine[number])
        del self._pristine[number]

    def _touched(self, uses: Uses) -> dict[int, list[Product]]:
        """What a set adds to each layer it touches; every adapter is checked before anything is."""
        for adapter, _ in uses:
            self.check(adapter)
        touched: dict[int, list[Product]] = {}
        for adapter, scale in uses:
            for path, pair in adapter.pairs.items():
                place = self._places[path]
                touched.setdefault(place.layer, []).append((place.part, pair.down, pair.up, scale))
        return touched

    def _products(self, lanes: Sequence[LaneInput], keys: Sequence[SetKey], packing: Packing) -> dict[int, GroupedLora]:
        """What is added in each touched layer; kept while batches are composed alike, as from step to step they are."""
        of_branch = [keys[branch.lane] for branch in packing.branches]
        composition = (tuple(of_branch), tuple(tuple(packing.bounds(s)) for s in ("image", "text")))
        if self._composed is not None and self._composed[0] == composition:
            return self._composed[1]
        sets = {key: self._stacks_of(lane.adapters) for lane, key in zip(lanes, keys, strict=True) if key}
        products = {}
        for number in sorted({n for stacks in sets.values() for n in stacks}):
            having = [key for key, stacks in sets.items() if number in stacks]
            bounds = packing.bounds(self._streams[number])
            segments = Segments(tuple(_segments(bounds, of_branch, having)))
            products[number] = GroupedLora.of([sets[key][number] for key in having], segments)
        self._composed = (composition, products)
        return products

    def _stacks_of(self, uses: Uses) -> Stacks:
        """A set's weights as products use them, in the model's dtype and on its device; the latest used are kept."""
        key = key_of(uses)
        if key in self._stacks:
            self._stacks.move_to_end(key)
            return self._stacks[key][0]
        stacks = {
            number: pack_lora(products, self._layers[number].weight)
            for number, products in self._touched(in_order(uses)).items()
        }
        self._stacks[key] = (stacks, sum(stack.size_bytes for stack in stacks.values()))
        while sum(size for _, size in self._stacks.values()) > self._max_stack_bytes and len(self._stacks) > 1:
            self._stacks.popitem(last=False)
        return stacks


def _segments(
    bounds: Sequence[tuple[int, int]], of_branch: Sequence[SetKey], having: Sequence[SetKey]
) -> Iterator[tuple[int, int, int]]:
    """Runs of rows of one set, as (start, stop, the set's number among those that touch the layer)."""
    for key, run in groupby(zip(bounds, of_branch, strict=True), key=lambda each: each[1]):
        if key in having:
            rows = [bound for bound, _ in run]
            yield rows[0][0], rows[-1][1], having.index(key)
