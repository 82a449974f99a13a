"""The low-rank products that sets of adapters add to one layer's rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from lego_kernels import Factors, Segments, lora_expand, lora_shrink
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import Part

RANK_STEP = 16  # ranks are filled up to a multiple, so that few shapes of product have to be probed
Product = tuple[Part, torch.Tensor, torch.Tensor, float]  # the part of the layer, down, up, and the scale


@dataclass(frozen=True, slots=True)
class PackedLora:
    """The products of one set of adapters in one layer.

    ``down`` holds all down weights as one (ranks, inputs).  ``ups`` holds for each part of the outputs its up weight
    (outputs, ranks of the part), scales folded in, and the first of its hidden columns.
    """

    down: torch.Tensor
    ups: dict[Part, tuple[torch.Tensor, int]]

    @property
    def size_bytes(self) -> int:
        """Bytes of its weights."""
        return self.down.nbytes + sum(up.nbytes for up, _ in self.ups.values())


def common_precision(factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a factor of an adapter as it is rounded before it meets a weight.

    To bfloat16 it goes by way of float16: so an adapter saved in F32 and in F16 is one adapter, as its users take it
    to be, where rounding at once would leave a last bit between them that a strong adapter makes visible.  Values are
    bounded far below float16's largest, and those that it rounds to nothing change no sum.
    """
    is_wider = weight.dtype is torch.bfloat16 and factor.dtype is torch.float32
    return factor.half() if is_wider else factor


def pack_lora(products: Sequence[Product], weight: torch.Tensor) -> PackedLora:
    """Pack a set's products of one layer, in the dtype and on the device of the layer's weight."""
    downs, ups, column = [], {}, 0
    for part in sorted({part for part, *_ in products}, key=lambda part: part.start):
        own = [
            (common_precision(down, weight), common_precision(up, weight).float() * scale)
            for owner, down, up, scale in products
            if owner == part
        ]
        down = torch.cat([down.to(weight) for down, _ in own])
        up = torch.cat([up.to(weight) for _, up in own], dim=1)
        fill = -len(down) % RANK_STEP
        downs.append(F.pad(down, (0, 0, 0, fill)))
        ups[part] = (F.pad(up, (0, fill)).contiguous(), column)
        column += len(down) + fill
    return PackedLora(torch.cat(downs), ups)


@dataclass(frozen=True, slots=True)
class GroupedLora:
    """The products of one layer for one batch: a LoraDelta that gives each segment of rows its own set's products."""

    down: Factors
    segments: Segments
    parts: tuple[tuple[int, int, Factors, Segments], ...]  # outputs [start, stop), their up weights, and the rows

    @classmethod
    def of(cls, sets: Sequence[PackedLora], segments: Segments) -> "GroupedLora":
        """Group the products of several sets; segments name a set by its index."""
        parts = []
        for part in sorted({part for packed in sets for part in packed.ups}, key=lambda part: part.start):
            owners = [index for index, packed in enumerate(sets) if part in packed.ups]
            ups, columns = zip(*(sets[index].ups[part] for index in owners), strict=True)
            rows = tuple((start, stop, owners.index(index)) for start, stop, index in segments.rows if index in owners)
            parts.append((part.start, part.stop, Factors.up(*ups, columns=columns), Segments(rows)))
        return cls(Factors.down(*(packed.down for packed in sets)), segments, tuple(parts))

    @property
    def runs(self) -> Sequence[tuple[int, int]]:
        """The rows that are added to."""
        return [(start, stop) for start, stop, _ in self.segments.rows]

    def __call__(self, x: torch.Tensor, out: torch.Tensor, ops: LinearOps) -> torch.Tensor:
        """Add to ``out``, the layer's output for rows x, in place; return it."""
        hidden = lora_shrink(x, self.down, self.segments, product=ops.linear)
        for start, stop, up, segments in self.parts:
            lora_expand(out[:, start:stop], hidden, up, segments, add=ops.add_linear)
        return out


@dataclass(frozen=True, eq=False)
class LaterLora:
    """A layer's products for one batch, grouped when the layer is computed with them for the first time.

    Where a block's rows lie in their own way all layers are given their products for it, and the block's alone are
    computed.  ``rows``: the segments, which name one of ``sets`` by its index.
    """

    sets: Sequence[PackedLora]
    rows: tuple[tuple[int, int, int], ...]

    @cached_property
    def grouped(self) -> GroupedLora:
        """The products, by segment."""
        return GroupedLora.of(self.sets, Segments(self.rows))

    @property
    def runs(self) -> Sequence[tuple[int, int]]:
        """The rows that are added to."""
        return self.grouped.runs

    def __call__(self, x: torch.Tensor, out: torch.Tensor, ops: LinearOps) -> torch.Tensor:
        """Add to ``out``, the layer's output for rows x, in place; return it."""
        return self.grouped(x, out, ops)
