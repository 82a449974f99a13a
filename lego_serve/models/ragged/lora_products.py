"""What one set of adapters, or several, add to one layer's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lego_kernels import Factors, Segments, lora_expand, lora_shrink
from lego_serve.models.ragged.batch_invariant import add_linear, linear
from lego_serve.models.ragged.layers import Part

RANK_STEP = 16  # ranks are filled up to a multiple, so that few shapes of product have to be probed
Product = tuple[Part, torch.Tensor, torch.Tensor, float]


@dataclass(frozen=True, slots=True)
class PackedLora:
    """One set in one layer: all ``down`` weights as one (ranks, inputs), and for each part of the outputs its ``up``.

    ``ups`` by part: (outputs, ranks of the part) and the first of its hidden columns; scales are folded in.
    """

    down: torch.Tensor
    ups: dict[Part, tuple[torch.Tensor, int]]

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return self.down.nbytes + sum(up.nbytes for up, _ in self.ups.values())


def pack_lora(products: Sequence[Product], like: torch.Tensor) -> PackedLora:
    """Stack a set's products of one layer, in a weight's dtype and on its device."""
    downs, ups, at = [], {}, 0
    for part in sorted({part for part, *_ in products}, key=lambda part: part.start):
        own = [(down, up.float() * scale) for of, down, up, scale in products if of == part]
        down, up = torch.cat([d.to(like) for d, _ in own]), torch.cat([u.to(like) for _, u in own], dim=1)
        fill = -len(down) % RANK_STEP
        down, up = F.pad(down, (0, 0, 0, fill)), F.pad(up, (0, fill)).contiguous()
        downs.append(down)
        ups[part] = (up, at)
        at += len(down)
    return PackedLora(torch.cat(downs), ups)


@dataclass(frozen=True, slots=True)
class GroupedLora:
    """The products of one layer in one composition of a batch."""

    down: Factors
    segments: Segments
    parts: tuple[tuple[int, int, Factors, Segments], ...]  # outputs from and up to, what they get, and whose rows

    @classmethod
    def of(cls, stacks: Sequence[PackedLora], segments: Segments) -> "GroupedLora":
        """The products of several sets, whose numbers the segments name."""
        parts = []
        for part in sorted({part for stack in stacks for part in stack.ups}, key=lambda part: part.start):
            having = [index for index, stack in enumerate(stacks) if part in stack.ups]
            ups, columns = zip(*(stacks[index].ups[part] for index in having), strict=True)
            rows = tuple((start, stop, having.index(w)) for start, stop, w in segments.rows if w in having)
            parts.append((part.start, part.stop, Factors.up(*ups, columns=columns), Segments(rows)))
        return cls(Factors.down(*(stack.down for stack in stacks)), segments, tuple(parts))

    @property
    def runs(self) -> Sequence[tuple[int, int]]:
        """The rows that get something."""
        return [(start, stop) for start, stop, _ in self.segments.rows]

    def __call__(self, x: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Add to what the layer said of rows x, in place."""
        hidden = lora_shrink(x, self.down, self.segments, product=linear)
        for start, stop, up, segments in self.parts:
            lora_expand(said[:, start:stop], hidden, up, segments, add=add_linear)
        return said
