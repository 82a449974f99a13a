"""Kept activations: the keys and values of a template's image rows, so that an edit computes only its own rows.

InstGenIE (FlashPS, EuroSys 2026): what lies outside a mask hardly changes from edit to edit.  One forward pass
over the noised template, a *priming* pass, keeps the keys and values of its image rows at each attention, after norm
and rotation; an edit's rows attend to those and to its own.  The text rows are kept as well where an edit's
unconditional branch has the same text, which then computes none.  What is read back never depends on when it was
written: entries are coded when they are written, even where the same step reads them.

Kept rows may also stand *beside* an image's own, appended: those of a reference image that attends to itself alone
(causal conditioning, EasyControl, Zhang et al., 2025).  They are the same in all steps and for all lanes, so one pass
computes what a concatenated sequence would compute in every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

Parts = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class ActivationCodec:
    """A coding of kept rows: ``pack`` codes them as tensors, ``unpack`` decodes these into rows of any dtype."""

    name: str
    bytes_per_number: int
    bytes_per_head: int
    pack: Callable[[torch.Tensor], Parts]
    unpack: Callable[[Parts, torch.Tensor], torch.Tensor]

    def size_bytes(self, rows: int, heads: int, head_width: int) -> int:
        """Return the bytes of the keys and values of so many rows."""
        return 2 * rows * heads * (head_width * self.bytes_per_number + self.bytes_per_head)


def _int8(rows: torch.Tensor) -> Parts:
    """Code rows (rows, 2, heads, head width) symmetrically, with one scale for each row and head.

    Numbers are divided by the scale as it is stored in fp16, rounded up so that none exceeds 127.  Dividing by the
    unrounded scale would be off by more than half a step where the scale is so small that fp16 has few bits for it.
    """
    exact_scale = rows.abs().amax(dim=-1, keepdim=True).float() / 127
    scale = exact_scale.to(torch.float16)
    scale = torch.where(scale.float() < exact_scale, torch.nextafter(scale, scale.new_full((), torch.inf)), scale)
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
    """Return the bytes of an entry of so many image and text rows at all attentions of a model."""
    return sum(
        coding.size_bytes(image_rows + text_rows * attention.is_joint, attention.heads, attention.width)
        for attention in attentions
    )


class Rows(Protocol):
    """Kept rows that stand for those an edit does not compute."""

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """Return how many image rows and how many text rows are kept at an attention."""
        ...

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """Read keys and values into (rows, 2, heads, head width): image rows, then text rows if there is room."""
        ...


@dataclass(slots=True)
class Activations:
    """One branch's entry for one sigma: coded rows by attention.  One pass fills it and any later one reads it."""

    coding: ActivationCodec
    keeps_text: bool = False
    by_attention: dict[str, Parts] = field(default_factory=dict)
    image_rows: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(part.nbytes for parts in self.by_attention.values() for part in parts)

    def put(self, attention_id: str, image: torch.Tensor, text: torch.Tensor) -> None:
        """Keep keys and values (rows, 2, heads, head width) of an attention; the text's only with ``keeps_text``."""
        self.image_rows = image.shape[0]
        self.by_attention[attention_id] = self.coding.pack(torch.cat([image, text]) if self.keeps_text else image)

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """Return the image rows and text rows at an attention.

        Raises KeyError where the pass that fills the entry has not come so far.
        """
        return self.image_rows, self.by_attention[attention_id][0].shape[0] - self.image_rows

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """Read as many kept rows as there is room for.  Raises KeyError as ``lengths`` does."""
        self.coding.unpack(tuple(part[: into.shape[0]] for part in self.by_attention[attention_id]), into)


@dataclass(slots=True)
class KeptKeys:
    """One branch's keys and values of a lane's own image rows as last computed: (rows, 2, heads, head width).

    A step that fails and runs again writes the same rows again, so nothing is left behind.
    """

    by_attention: dict[str, torch.Tensor] = field(default_factory=dict)

    def put(self, attention_id: str, image: torch.Tensor, text: torch.Tensor) -> None:
        """Keep keys and values of all image rows; those of text are computed in every step."""
        self.by_attention[attention_id] = image.clone()

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """Return the image rows at an attention, and no text rows."""
        return self.by_attention[attention_id].shape[0], 0

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """Read as many kept rows as there is room for."""
        into.copy_(self.by_attention[attention_id][: into.shape[0]])

    def update(self, attention_id: str, active: torch.Tensor, image: torch.Tensor) -> None:
        """Replace the rows that were computed."""
        self.by_attention[attention_id].index_copy_(0, active, image)


Capture = Activations | KeptKeys  # what a pass fills


@dataclass(frozen=True, slots=True)
class Reuse:
    """The reuse of an edit's step: the ``active`` image rows it computes (ascending), and each branch's kept rows.

    With ``reads_text`` the unconditional branch's text rows are read too; its entry was made with the same text.
    """

    active: torch.Tensor
    cond: Rows
    negative: Rows | None = None
    reads_text: bool = False


@dataclass(frozen=True, slots=True)
class BranchReuse:
    """The reuse of one branch: the active image rows it computes, and the kept rows."""

    active: torch.Tensor
    rows: Rows
    reads_text: bool = False


class KvAssembler:
    """Assembles the keys and values of one attention for branches that reuse some, one after the other.

    The two branches of a lane lie side by side and often read the same entry, which is then decoded once.
    """

    def __init__(self, attention_id: str) -> None:
        self._attention_id = attention_id
        self._last: tuple[BranchReuse, torch.Tensor] | None = None
        self._appended: dict[int, torch.Tensor] = {}  # by the entry's id, which lanes of this batch hold

    def append(self, kv: torch.Tensor, appended: Sequence[Rows]) -> torch.Tensor:
        """Return keys and values (branches, rows, 2, heads, head width) with the appended image rows behind them."""
        if not appended:
            return kv
        parts = [self._read_appended(rows, kv) for rows in appended]
        return torch.cat([kv, *(part.expand(kv.shape[0], *part.shape) for part in parts)], dim=1)

    def _read_appended(self, rows: Rows, like: torch.Tensor) -> torch.Tensor:
        if id(rows) not in self._appended:
            image_rows, _ = rows.lengths(self._attention_id)
            into = like.new_empty(image_rows, *like.shape[2:])
            rows.read(self._attention_id, into)
            self._appended[id(rows)] = into
        return self._appended[id(rows)]

    def assemble(self, reuse: BranchReuse, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return all rows of a branch (image and text rows, 2, heads, head width), computed ones among the kept.

        ``image`` are the active image rows and ``text`` the text rows that the branch computed.
        """
        image_rows, kept_text = reuse.rows.lengths(self._attention_id)
        rows = image_rows + (kept_text if reuse.reads_text else text.shape[0])
        whole = image.new_empty(rows, *image.shape[1:])
        if reuse.reads_text:
            reuse.rows.read(self._attention_id, whole)
        else:
            self._read_image(reuse, whole[:image_rows])
            whole[image_rows:] = text
        self._last = reuse, whole
        if isinstance(reuse.rows, KeptKeys):  # the lane's own, which its next step reads
            reuse.rows.update(self._attention_id, reuse.active, image)
        return whole.index_copy_(0, reuse.active, image)

    def _read_image(self, reuse: BranchReuse, into: torch.Tensor) -> None:
        """Decode the image rows, or copy those of the branch before, which differ in the active rows alone."""
        if self._last is not None:
            last, whole = self._last
            if last.rows is reuse.rows and last.active is reuse.active:
                into.copy_(whole[: into.shape[0]])
                return
        reuse.rows.read(self._attention_id, into)
