"""How the branches of a step lie in memory: all image rows together, all text rows together.

Branches of one shape lie side by side, so that a group is a slice of the rows and attention over
it needs no copy.  Nothing is padded, unless buckets are asked for: then zero rows that belong to no
group fill the last bucket, so that a compiled or captured forward pass sees few shapes.  Lengths
are built on the CPU.  A guided lane brings two branches, unconditional first.  A branch that computes some rows of
its image alone attends to kept ones besides, and is a group by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Protocol

import torch
from torch.nn import functional as F

from lego_serve.models.ragged.activations import Activations, BranchReuse, Reuse
from lego_serve.models.ragged.conditioning import PreparedPrompt


@dataclass(frozen=True, slots=True)
class Branch:
    """A lane's conditional or unconditional half."""

    lane: int
    cond: PreparedPrompt
    image_rows: int
    is_negative: bool = False
    kept: BranchReuse | None = None

    @property
    def text(self) -> torch.Tensor:
        """The text rows it computes: its prompt's tokens, none where they are read."""
        return self.cond.tokens[:0] if self.kept is not None and self.kept.reads_text else self.cond.tokens

    @property
    def text_rows(self) -> int:
        """How many those are."""
        return int(self.text.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """What branches of one group have in common: image rows, text rows, and nothing kept (else its own lane)."""
        return self.image_rows, self.text_rows, -1 if self.kept is None else 2 * self.lane + self.is_negative


@dataclass(frozen=True, slots=True)
class Group:
    """Branches of one shape: rows [image_start, image_start + count * image_rows) and likewise for text."""

    count: int
    image_start: int
    image_rows: int
    text_start: int
    text_rows: int
    kept: BranchReuse | None = None

    @property
    def joint_rows(self) -> int:
        """Rows of one branch where text and image are one sequence."""
        return self.text_rows + self.image_rows

    @property
    def joint_slice(self) -> slice:
        """Its rows in such a sequence."""
        start = self.image_start + self.text_start
        return slice(start, start + self.count * self.joint_rows)

    @property
    def image_slice(self) -> slice:
        """Its image rows."""
        return slice(self.image_start, self.image_start + self.count * self.image_rows)

    @property
    def text_slice(self) -> slice:
        """Its text rows."""
        return slice(self.text_start, self.text_start + self.count * self.text_rows)


@dataclass(frozen=True, slots=True)
class CaptureSlices:
    """A branch whose rows are kept for others: its image rows, its text rows, and both in one sequence, text first."""

    image: slice
    text: slice
    joint_text: slice
    joint_image: slice
    into: Activations


@dataclass(frozen=True, slots=True)
class Packing:
    """The branches in memory order, their groups, and for each row the branch it belongs to."""

    branches: tuple[Branch, ...]
    groups: tuple[Group, ...]
    image_branch: torch.Tensor  # (image rows and fill,)
    text_branch: torch.Tensor  # (text rows and fill,)
    joint_branch: torch.Tensor  # (image and text rows and fill,)
    captured: tuple[CaptureSlices, ...] = ()

    def capture(self, attention_id: str, image: torch.Tensor, text: torch.Tensor | None = None) -> None:
        """Keep what is to be kept of an attention's (image rows, 3, heads, head width), and of its text rows."""
        for one in self.captured:
            one.into.put(attention_id, image[one.image, 1:], image[:0, 1:] if text is None else text[one.text, 1:])

    def capture_joint(self, attention_id: str, joint: torch.Tensor) -> None:
        """The same of rows of text and image."""
        for one in self.captured:
            one.into.put(attention_id, joint[one.joint_image, 1:], joint[one.joint_text, 1:])

    @property
    def image_lengths(self) -> list[int]:
        """Image rows of each branch, in memory order."""
        return [branch.image_rows for branch in self.branches]

    def rows_of(self, parts: Sequence[torch.Tensor], filled: torch.Tensor) -> torch.Tensor:
        """One tensor of the branches' rows and as many zeros as ``filled`` (rows and fill,) asks for."""
        missing = filled.shape[0] - sum(part.shape[0] for part in parts)
        return torch.cat([*parts, parts[0].new_zeros(missing, parts[0].shape[1])] if missing else list(parts))

    def bounds(self, stream: str) -> list[tuple[int, int]]:
        """Rows [start, stop) of each branch in a stream: ``image``, ``text``, ``joint`` or ``branch`` (one each)."""
        image, text = self.image_lengths, [b.text_rows for b in self.branches]
        lengths = {
            "image": image, "text": text, "joint": [i + t for i, t in zip(image, text, strict=True)],
            "branch": [1] * len(text),
        }[stream]  # fmt: skip
        ends = list(accumulate(lengths))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def join(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Image and text rows as one sequence a branch, text first."""
        parts = []
        for group in self.groups:
            rows = [
                text[group.text_slice].unflatten(0, (group.count, group.text_rows)),
                image[group.image_slice].unflatten(0, (group.count, group.image_rows)),
            ]
            parts.append(torch.cat(rows, dim=1).flatten(0, 1))
        return self.rows_of(parts, self.joint_branch)

    def image_part(self, joint: torch.Tensor) -> torch.Tensor:
        """The image rows of such sequences."""
        parts = []
        for group in self.groups:
            rows = joint[group.joint_slice].unflatten(0, (group.count, group.joint_rows))
            parts.append(rows[:, group.text_rows :].flatten(0, 1))
        return self.rows_of(parts, self.image_branch)


class BranchedLane(Protocol):
    """A lane as far as its branches go: LaneInput, or a lane as a ControlNet sees it."""

    @property
    def cond(self) -> PreparedPrompt:
        """The prompt."""
        ...

    @property
    def negative(self) -> PreparedPrompt | None:
        """The other prompt, where the step is guided by one."""
        ...


def pack(
    lanes: Sequence[BranchedLane],
    image_rows: Sequence[int],
    device: torch.device,
    *,
    uses_cfg: bool = True,
    bucket_rows: int = 1,
    reuses: Mapping[int, Reuse] | None = None,
    captures: Mapping[int, Activations] | None = None,
) -> Packing:
    """Lay out the branches of the lanes, whose images have so many rows each (to be computed, of those that reuse).

    Without ``uses_cfg`` guidance (the model is told the guidance instead) a lane is one
    branch.  Image rows and text rows are filled up to a multiple of ``bucket_rows``.
    """
    branches = branches_of(lanes, image_rows, uses_cfg=uses_cfg)
    if reuses:
        branches = sorted((_kept(b, reuses.get(b.lane), device) for b in branches), key=lambda branch: branch.shape)
    groups = tuple(_groups(branches))
    image_lengths, text_lengths = [b.image_rows for b in branches], [b.text_rows for b in branches]
    joint_lengths = [i + t for i, t in zip(image_lengths, text_lengths, strict=True)]
    lengths = image_lengths, text_lengths, joint_lengths
    of_image, of_text, of_joint = (_index(of, bucket_rows).to(device) for of in lengths)
    captured = tuple(_captured(branches, captures)) if captures else ()
    return Packing(tuple(branches), groups, of_image, of_text, of_joint, captured)


def _kept(branch: Branch, reuse: Reuse | None, device: torch.device) -> Branch:
    if reuse is None:
        return branch
    rows = reuse.negative if branch.is_negative else reuse.cond
    if rows is None:
        raise ValueError("a guided lane that reuses needs rows for both branches")
    return replace(branch, kept=BranchReuse(reuse.active.to(device), rows, reuse.reads_text and branch.is_negative))


def _captured(branches: Sequence[Branch], captures: Mapping[int, Activations]) -> Iterator[CaptureSlices]:
    image = text = 0
    for branch in branches:
        image_end, text_end = image + branch.image_rows, text + branch.text_rows
        if branch.lane in captures and not branch.is_negative:
            middle = image + text_end
            own = slice(image, image_end), slice(text, text_end)
            joint = slice(image + text, middle), slice(middle, image_end + text_end)
            yield CaptureSlices(*own, *joint, captures[branch.lane])
        image, text = image_end, text_end


def branches_of(lanes: Sequence[BranchedLane], image_rows: Sequence[int], *, uses_cfg: bool = True) -> list[Branch]:
    """The branches of lanes in memory order: by shape, then as given, unconditional first."""
    branches = []
    for index, lane in enumerate(lanes):
        if uses_cfg and lane.negative is not None:
            branches.append(Branch(index, lane.negative, image_rows[index], is_negative=True))
        branches.append(Branch(index, lane.cond, image_rows[index]))
    return sorted(branches, key=lambda branch: (branch.image_rows, branch.text_rows))


def _groups(branches: Sequence[Branch]) -> Iterator[Group]:
    image_start = text_start = 0
    for (image_rows, text_rows, _), same in groupby(branches, key=lambda branch: branch.shape):
        alike = list(same)
        count = len(alike)
        yield Group(count, image_start, image_rows, text_start, text_rows, alike[0].kept)
        image_start += count * image_rows
        text_start += count * text_rows


def _index(lengths: Sequence[int], bucket_rows: int) -> torch.Tensor:
    """For each row the branch it belongs to; fill rows name branch 0, whose modulation does them no harm."""
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return F.pad(index, (0, -len(index) % bucket_rows))
