"""How the branches of a step lie in memory: all image rows together, all text rows together.

Branches of one shape lie side by side, so that a group is a slice of the rows and attention over
it needs no copy.  Nothing is padded, unless buckets are asked for: then zero rows that belong to no
group fill the last bucket, so that a compiled or captured forward pass sees few shapes.  Lengths
are built on the CPU.  A guided lane brings two branches, unconditional first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn import functional as F

from lego_serve.models.base import LaneInput, Prepared


@dataclass(frozen=True, slots=True)
class Branch:
    """A lane's conditional or unconditional half."""

    lane: int
    cond: Prepared
    image_rows: int

    @property
    def text_rows(self) -> int:
        """Text tokens of its prompt."""
        return int(self.cond.tokens.shape[0])


@dataclass(frozen=True, slots=True)
class Group:
    """Branches of one shape: rows [image_start, image_start + count * image_rows) and likewise for text."""

    count: int
    image_start: int
    image_rows: int
    text_start: int
    text_rows: int

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
class Packing:
    """The branches in memory order, their groups, and for each row the branch it belongs to."""

    branches: tuple[Branch, ...]
    groups: tuple[Group, ...]
    image_branch: torch.Tensor  # (image rows and fill,)
    text_branch: torch.Tensor  # (text rows and fill,)
    joint_branch: torch.Tensor  # (image and text rows and fill,)

    @property
    def image_lengths(self) -> list[int]:
        """Image rows of each branch, in memory order."""
        return [branch.image_rows for branch in self.branches]

    def rows_of(self, parts: Sequence[torch.Tensor], filled: torch.Tensor) -> torch.Tensor:
        """One tensor of the branches' rows and as many zeros as ``filled`` (rows and fill,) asks for."""
        missing = filled.shape[0] - sum(part.shape[0] for part in parts)
        return torch.cat([*parts, parts[0].new_zeros(missing, parts[0].shape[1])] if missing else list(parts))

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


def pack(
    lanes: Sequence[LaneInput],
    image_rows: Sequence[int],
    device: torch.device,
    *,
    classifier_free: bool = True,
    bucket_rows: int = 1,
) -> Packing:
    """Lay out the branches of the lanes, whose images have so many rows each.

    Without ``classifier_free`` guidance (the model is told the guidance instead) a lane is one
    branch.  Image rows and text rows are filled up to a multiple of ``bucket_rows``.
    """
    branches = []
    for index, lane in enumerate(lanes):
        if classifier_free and lane.negative is not None:
            branches.append(Branch(index, lane.negative, image_rows[index]))
        branches.append(Branch(index, lane.cond, image_rows[index]))
    branches.sort(key=lambda branch: (branch.image_rows, branch.text_rows))
    groups = tuple(_groups(branches))
    image_lengths, text_lengths = [b.image_rows for b in branches], [b.text_rows for b in branches]
    joint_lengths = [i + t for i, t in zip(image_lengths, text_lengths, strict=True)]
    indices = (_index(lengths, bucket_rows).to(device) for lengths in (image_lengths, text_lengths, joint_lengths))
    return Packing(tuple(branches), groups, *indices)


def _groups(branches: Sequence[Branch]) -> Iterator[Group]:
    image_start = text_start = 0
    for (image_rows, text_rows), same in groupby(branches, key=lambda b: (b.image_rows, b.text_rows)):
        count = len(list(same))
        yield Group(count, image_start, image_rows, text_start, text_rows)
        image_start += count * image_rows
        text_start += count * text_rows


def _index(lengths: Sequence[int], bucket_rows: int) -> torch.Tensor:
    """For each row the branch it belongs to; fill rows name branch 0, whose modulation does them no harm."""
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return F.pad(index, (0, -len(index) % bucket_rows))
