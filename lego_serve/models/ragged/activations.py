"""Kept activations: the keys and values of a template's image rows, so that an edit computes its own rows alone.

InstGenIE (FlashPS, EuroSys 2026): what stands outside a mask hardly changes from edit to edit.  One forward pass
over the noised template, a *priming* pass, keeps what each attention needs of its image rows, after norm and
rotation; an edit's rows attend to those and to its own.  The text's rows are kept beside them where it is the text of
an edit's unconditional branch, which then computes none.  What is read back never depends on when it was written:
entries are coded as they are put down, also where the same step reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

Parts = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class ActivationCodec:
    """How rows are kept: ``pack`` to tensors, and ``unpack`` into rows of any dtype."""

    name: str
    bytes_a_number: int
    bytes_a_head: int
    pack: Callable[[torch.Tensor], Parts]
    unpack: Callable[[Parts, torch.Tensor], torch.Tensor]

    def size_bytes(self, rows: int, heads: int, head_width: int) -> int:
        """What keys and values of so many rows take."""
        return 2 * rows * heads * (head_width * self.bytes_a_number + self.bytes_a_head)


def _int8(rows: torch.Tensor) -> Parts:
    """Symmetric, with a scale for each row and head: of (rows, 2, heads, head width) the last is one block.

    Numbers are divided by the scale as it is kept, rounded up so that none grows beyond 127: where it is so small
    that fp16 has few bits for it, the one that was not rounded would be off by more than half a step.
    """
    wanted = rows.abs().amax(dim=-1, keepdim=True).float() / 127
    scale = wanted.to(torch.float16)
    scale = torch.where(scale.float() < wanted, torch.nextafter(scale, scale.new_tensor(torch.inf)), scale)
    scale = scale.clamp_min(6e-8)
    return torch.round(rows.float() / scale.float()).to(torch.int8), scale


def _cast(parts: Parts, into: torch.Tensor) -> torch.Tensor:
    return into.copy_(parts[0])


def _from_int8(parts: Parts, into: torch.Tensor) -> torch.Tensor:
    whole, scale = parts
    if into.dtype == torch.float32:  # in place: a step reads megabytes of these
        return into.copy_(whole).mul_(scale.to(torch.float32))
    return into.copy_(whole.to(torch.float32) * scale.to(torch.float32))


ACTIVATION_CODECS = {
    "float32": ActivationCodec("float32", 4, 0, lambda rows: (rows.float().clone(),), _cast),
    "bfloat16": ActivationCodec("bfloat16", 2, 0, lambda rows: (rows.bfloat16().clone(),), _cast),
    "int8": ActivationCodec("int8", 1, 2, _int8, _from_int8),
}


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """An attention's heads and their width; ``is_joint`` where text rows take part in it."""

    heads: int
    width: int
    is_joint: bool = True


def entry_bytes(coding: ActivationCodec, attentions: Sequence[AttentionShape], image_rows: int, text_rows: int) -> int:
    """What an image's rows, and those of a text beside them, take at all attentions of a model."""
    return sum(coding.size_bytes(image_rows + text_rows * at.is_joint, at.heads, at.width) for at in attentions)


class Rows(Protocol):
    """What stands for the rows that an edit does not compute."""

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """How many image rows there are at an attention, and how many of the text's are kept."""
        ...

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """Put keys and values into (rows, 2, heads, head width): the image rows, then the text's if there is room."""
        ...


@dataclass(slots=True)
class Activations:
    """One branch's entry for one sigma: by attention, coded rows.  Filled by one pass and read by any after it."""

    coding: ActivationCodec
    keeps_text: bool = False
    by_attention: dict[str, Parts] = field(default_factory=dict)
    image_rows: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return sum(part.nbytes for parts in self.by_attention.values() for part in parts)

    def put(self, attention_id: str, image: torch.Tensor, text: torch.Tensor) -> None:
        """Keep (image rows, 2, heads, head width) of an attention, and the text's if that is wanted."""
        self.image_rows = image.shape[0]
        self.by_attention[attention_id] = self.coding.pack(torch.cat([image, text]) if self.keeps_text else image)

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """Image rows and text rows at an attention.  KeyError where the pass that fills it has not come so far."""
        return self.image_rows, self.by_attention[attention_id][0].shape[0] - self.image_rows

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """What was kept, as many rows of it as there is room for.  KeyError likewise."""
        self.coding.unpack(tuple(part[: into.shape[0]] for part in self.by_attention[attention_id]), into)


@dataclass(frozen=True, slots=True)
class Reuse:
    """An edit's step: the image rows it computes (ascending), and what stands for all others in each branch.

    ``reads_text``: the text's rows of the unconditional branch are read too; its entry was made with the same text.
    """

    active: torch.Tensor
    cond: Rows
    negative: Rows | None = None
    reads_text: bool = False


@dataclass(frozen=True, slots=True)
class BranchReuse:
    """The same of one branch."""

    active: torch.Tensor
    rows: Rows
    reads_text: bool = False


class KvAssembler:
    """Keys and values of one attention for branches that keep some, one after the other.

    The two branches of a lane lie side by side and often read the same entry: it is decoded once for both.
    """

    def __init__(self, attention_id: str) -> None:
        self._attention_id = attention_id
        self._last: tuple[BranchReuse, torch.Tensor] | None = None

    def of(self, kept: BranchReuse, own: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """All rows of a branch, (image and text rows, 2, heads, head width): its own among the kept, and its text's."""
        image_rows, kept_text = kept.rows.lengths(self._attention_id)
        rows = image_rows + (kept_text if kept.reads_text else text.shape[0])
        whole = own.new_empty(rows, *own.shape[1:])
        if kept.reads_text:
            kept.rows.read(self._attention_id, whole)
        else:
            self._read(kept, whole[:image_rows])
            whole[image_rows:] = text
        self._last = kept, whole
        return whole.index_copy_(0, kept.active, own)

    def _read(self, kept: BranchReuse, image: torch.Tensor) -> None:
        """The image rows: decoded, or those of the branch before, which differ from them in the active ones alone."""
        before = self._last
        if before is not None and before[0].rows is kept.rows and before[0].active is kept.active:
            image.copy_(before[1][: image.shape[0]])
        else:
            kept.rows.read(self._attention_id, image)
