"""The layers of a model that adapters change, and the two ways to change them.

*Patched*: the weights themselves become ``W + s up down``; a pristine copy of each touched weight is kept and
put back bit for bit.  *Grouped*: the weights stay, and the rows of each lane that has adapters get
its own low-rank products added, lanes of different sets side by side.  While layers are patched with a set,
only lanes of that set may run; before any others run the layers are restored.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from lego_serve.core.addons import entry_param
from lego_serve.core.scheduling.lora_mode import AdapterSet
from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Adapter, SetKey, Uses, in_order, key_of
from lego_serve.models.lora.targets import StreamOf, text_layer_path
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import Linear, Part
from lego_serve.models.ragged.lora_products import LaterLora, PackedLora, Product, common_precision, pack_lora
from lego_serve.models.ragged.packing import Packing

MAX_PACKED_BYTES = 1 << 30
MAX_LAYOUTS = 64  # ways in which the rows of one batch lie: of the step, and of its blocks with rows of their own
PackedSet = dict[int, PackedLora]  # one set's products, by the index of the layer


@dataclass(frozen=True, slots=True)
class Location:
    """The place of one of the model's own layers: the index of our layer and the part of its outputs."""

    layer: int
    part: Part


class LoraLayers:
    """The layers of one model that adapters may change.

    ``layers`` are Linears, or torch's modules where the weights are patched only.  ``stream_of`` says which rows a
    layer sees; it is None where products are never grouped.  The packed weights of the sets used last are cached up to
    ``max_packed_bytes``.  One thread uses the layers: a step's products are set on them while the step runs.
    """

    def __init__(
        self,
        layers: Iterable[tuple[Any, Sequence[Part]]],
        stream_of: StreamOf | None = None,
        max_packed_bytes: int = MAX_PACKED_BYTES,
    ) -> None:
        entries = list(layers)
        self._layers = [layer for layer, _ in entries]
        self._locations = {part.path: Location(i, part) for i, (_, parts) in enumerate(entries) for part in parts}
        self._streams = [stream_of(parts[0].path) if stream_of and parts else "" for _, parts in entries]
        self._pristine: dict[int, torch.Tensor] = {}
        self._patched: SetKey = ()
        self._packed: OrderedDict[SetKey, tuple[PackedSet, int]] = OrderedDict()  # with its bytes, latest used last
        self._layouts: OrderedDict[object, dict[int, LaterLora]] = OrderedDict()  # by composition, latest used last
        self._is_grouping = False
        self._max_packed_bytes = max_packed_bytes

    @classmethod
    def of(cls, layers: Iterable[Linear], stream_of: StreamOf) -> "LoraLayers":
        """Take a backbone's layers; ``stream_of`` says which rows each sees."""
        return cls([(layer, layer.parts) for layer in layers if layer.parts], stream_of)

    @classmethod
    def of_modules(cls, modules: Mapping[str, torch.nn.Module]) -> "LoraLayers":
        """Take the linear layers of modules by component, which can be patched but not grouped."""
        return cls(
            (layer, (Part(f"{component}.{text_layer_path(path)}", 0, layer.out_features),))
            for component, module in modules.items()
            for path, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear)
        )

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Canonical path to (outputs, inputs) of every layer an adapter may change."""
        return {path: self._shape(location) for path, location in self._locations.items()}

    @property
    def patched(self) -> SetKey:
        """The set the weights are patched with; empty while they are the model's own."""
        return self._patched

    def check(self, adapter: Adapter) -> None:
        """Raise InvalidAdapter for an adapter whose layers this model lacks, or has in other shapes."""
        param = entry_param("lora", adapter.adapter_id)
        for path, pair in adapter.pairs.items():
            location = self._locations.get(path)
            if location is None:
                raise InvalidAdapter(f"Adapter {adapter.adapter_id} changes a layer this model lacks.", param=param)
            shape = (pair.up.shape[0], pair.down.shape[1])
            if shape != self._shape(location) or pair.down.shape[0] != pair.up.shape[1]:
                raise InvalidAdapter(f"Adapter {adapter.adapter_id} was made for another model.", param=param)

    def weigh(self, uses: Uses) -> AdapterSet:
        """Weigh a set: the multiplications a row pays for it when grouped, and the weights that patching rewrites."""
        touched = self._products_by_layer(in_order(uses))
        grouped = sum(
            down.numel() + up.numel()
            for index, products in touched.items()
            if self._streams[index] != "branch"
            for _, down, up, _ in products
        )
        return AdapterSet(key_of(uses), grouped, sum(self._layers[index].weight.numel() for index in touched))

    @torch.inference_mode()
    def patch(self, uses: Uses) -> None:
        """Patch the weights with this set, or with none, from pristine copies.

        Raises InvalidAdapter before anything is touched.  After any other error the weights are pristine.
        """
        uses = in_order(uses)
        if key_of(uses) == self._patched:
            return
        touched = self._products_by_layer(uses)
        try:
            for index in [index for index in self._pristine if index not in touched]:
                self._restore_layer(index)
            for index, products in touched.items():
                self._patch_layer(index, products)
        except BaseException:
            self.restore()
            raise
        self._patched = key_of(uses)

    @torch.inference_mode()
    def restore(self) -> None:
        """Put the pristine weights back, bit for bit."""
        for index in list(self._pristine):
            self._restore_layer(index)
        self._patched = ()

    def forget(self) -> None:
        """Put the pristine weights back, and forget all that was made of adapters: the model is as it was loaded."""
        self.restore()
        self._packed.clear()
        self._last_grouped = None

    @contextmanager
    def applied(self, lanes: Sequence[LaneInput], packing: Packing) -> Iterator[None]:
        """Apply each lane's adapters to its own rows within the context: as the weights are patched, or grouped.

        A context within another, of the same lanes, holds for rows that lie in another way.
        """
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
        products = self._grouped(lanes, keys, packing)
        before = {index: self._layers[index].lora for index in products}
        for index, product in products.items():
            self._layers[index].lora = product
        is_inner, self._is_grouping = self._is_grouping, True
        try:
            yield
        finally:
            for index in products:
                self._layers[index].lora = before[index]
            self._is_grouping = is_inner

    def _shape(self, location: Location) -> tuple[int, int]:
        part = location.part
        return part.stop - part.start, int(self._layers[location.layer].weight.shape[1])

    def _patch_layer(self, index: int, products: Sequence[Product]) -> None:
        weight = self._layers[index].weight
        if index in self._pristine:
            weight.copy_(self._pristine[index])
        else:
            self._pristine[index] = weight.detach().clone()
        for part, *factors, scale in products:
            down, up = (common_precision(factor, weight).to(weight) for factor in factors)
            weight[part.start : part.stop].addmm_(up, down, alpha=scale)

    def _restore_layer(self, index: int) -> None:
        self._layers[index].weight.copy_(self._pristine[index])
        del self._pristine[index]

    def _products_by_layer(self, uses: Uses) -> dict[int, list[Product]]:
        """Return a set's additions by the index of the layer.  Raises InvalidAdapter."""
        for adapter, _ in uses:
            self.check(adapter)
        touched: dict[int, list[Product]] = {}
        for adapter, scale in uses:
            for path, pair in adapter.pairs.items():
                location = self._locations[path]
                touched.setdefault(location.layer, []).append((location.part, pair.down, pair.up, scale))
        return touched

    def _grouped(self, lanes: Sequence[LaneInput], keys: Sequence[SetKey], packing: Packing) -> dict[int, LaterLora]:
        """Return the addition to each changed layer; cached while the batch keeps its composition.

        With it are cached those of its blocks whose rows lie in another way: so a step over the same batch makes none
        anew, and a GPU is sent none of their tables.
        """
        branch_keys = [keys[branch.lane] for branch in packing.branches]
        composition = (tuple(branch_keys), tuple(tuple(packing.bounds(stream)) for stream in ("image", "text")))
        if composition in self._layouts:
            self._layouts.move_to_end(composition)
            return self._layouts[composition]
        if not self._is_grouping:
            self._layouts.clear()  # they hold the weights of the sets of another batch
        sets = {key: self._packed_set(lane.adapters) for lane, key in zip(lanes, keys, strict=True) if key}
        grouped = {}
        for index in sorted({index for packed in sets.values() for index in packed}):
            touching = [key for key, packed in sets.items() if index in packed]
            bounds = packing.bounds(self._streams[index])
            rows = tuple(_segments(bounds, branch_keys, touching))
            grouped[index] = LaterLora([sets[key][index] for key in touching], rows)
        self._layouts[composition] = grouped
        if len(self._layouts) > MAX_LAYOUTS:
            self._layouts.popitem(last=False)
        return grouped

    def _packed_set(self, uses: Uses) -> PackedSet:
        """A set's packed weights, in the model's dtype and on its device, from the cache of those used last."""
        key = key_of(uses)
        if key in self._packed:
            self._packed.move_to_end(key)
            return self._packed[key][0]
        packed = {
            index: pack_lora(products, self._layers[index].weight)
            for index, products in self._products_by_layer(in_order(uses)).items()
        }
        self._packed[key] = (packed, sum(lora.size_bytes for lora in packed.values()))
        while sum(size for _, size in self._packed.values()) > self._max_packed_bytes and len(self._packed) > 1:
            self._packed.popitem(last=False)
        return packed


def _segments(
    bounds: Sequence[tuple[int, int]], branch_keys: Sequence[SetKey], touching: Sequence[SetKey]
) -> Iterator[tuple[int, int, int]]:
    """Yield runs of rows of one set that touches the layer: (start, stop, the set's index in ``touching``)."""
    for key, run in groupby(zip(bounds, branch_keys, strict=True), key=lambda branch: branch[1]):
        if key in touching:
            rows = [branch_bounds for branch_bounds, _ in run]
            yield rows[0][0], rows[-1][1], touching.index(key)
