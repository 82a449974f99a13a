"""Kept activations: the keys and values of a template's image rows, so that an edit computes its own rows alone.

InstGenIE (FlashPS, EuroSys 2026): what stands outside a mask hardly changes from edit to edit.  One forward pass
over the noised template, a *priming* pass, keeps what each attention needs of its image rows, after norm and
rotation; an edit's rows attend to those and to its own.  What is read back never depends on when it was written:
entries are coded as they are put down, also where the same step reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

Parts = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Coding:
    """How rows are kept: ``pack`` to tensors, and ``unpack`` to rows of a dtype."""

    name: str
    bytes_a_number: int
    bytes_a_head: int
    pack: Callable[[torch.Tensor], Parts]
    unpack: Callable[[Parts, torch.dtype], torch.Tensor]

    def size_bytes(self, rows: int, heads: int, head_width: int) -> int:
        """What keys and values of so many rows take."""
        return 2 * rows * heads * (head_width * self.bytes_a_number + self.bytes_a_head)


def _int8(rows: torch.Tensor) -> Parts:
    """Symmetric, with a scale for each row and head: of (rows, 2, heads, head width) the last is one block."""
    scale = rows.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / 127
    return torch.round(rows.float() / scale).to(torch.int8), scale.to(torch.float16).clamp_min(6e-8)


def _cast(parts: Parts, dtype: torch.dtype) -> torch.Tensor:
    return parts[0].to(dtype)


def _from_int8(parts: Parts, dtype: torch.dtype) -> torch.Tensor:
    whole, scale = parts
    return (whole.to(torch.float32) * scale.to(torch.float32)).to(dtype)


CODINGS = {
    "float32": Coding("float32", 4, 0, lambda rows: (rows.float().clone(),), _cast),
    "bfloat16": Coding("bfloat16", 2, 0, lambda rows: (rows.bfloat16().clone(),), _cast),
    "int8": Coding("int8", 1, 2, _int8, _from_int8),
}


class Rows(Protocol):
    """What stands for the rows that an edit does not compute."""

    def get(self, tap: str, dtype: torch.dtype) -> torch.Tensor:
        """Keys and values of all image rows at an attention: (image rows, 2, heads, head width), only to be read."""
        ...


@dataclass(slots=True)
class Activations:
    """One branch's entry for one sigma: by attention, coded rows.  Filled by one pass and read by any after it."""

    coding: Coding
    taps: dict[str, Parts] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return sum(part.nbytes for parts in self.taps.values() for part in parts)

    def put(self, tap: str, rows: torch.Tensor) -> None:
        """Keep (image rows, 2, heads, head width) of an attention."""
        self.taps[tap] = self.coding.pack(rows)

    def get(self, tap: str, dtype: torch.dtype) -> torch.Tensor:
        """What was kept.  KeyError where the pass that fills it has not come so far."""
        return self.coding.unpack(self.taps[tap], dtype)


@dataclass(frozen=True, slots=True)
class Reuse:
    """An edit's step: the image rows it computes (ascending), and what stands for all others in each branch."""

    active: torch.Tensor
    cond: Rows
    negative: Rows | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The same of one branch."""

    active: torch.Tensor
    rows: Rows


class Completion:
    """Keys and values of one attention for branches that keep some, one after the other.

    The two branches of a lane lie side by side and often read the same entry: it is decoded once for both.
    """

    def __init__(self, tap: str, dtype: torch.dtype) -> None:
        self._tap, self._dtype = tap, dtype
        self._read: tuple[Rows, torch.Tensor] | None = None

    def of(self, kept: Kept, own: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """All rows of a branch, (image and text rows, 2, heads, head width): its own among the kept, and its text's."""
        if self._read is None or self._read[0] is not kept.rows:
            self._read = kept.rows, kept.rows.get(self._tap, self._dtype)
        return torch.cat([self._read[1], text]).index_copy_(0, kept.active, own)
