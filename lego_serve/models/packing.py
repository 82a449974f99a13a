"""How the branches of a step lie in memory: all image rows together, all text rows together.

Branches of one shape lie side by side, so that a group is a slice of the rows and attention over
it needs no copy; nothing is padded.  A guided lane brings two branches, unconditional first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lego_serve.models.base import Conditioning, LaneInput


@dataclass(frozen=True, slots=True)
class Branch:
    """A lane's conditional or unconditional half."""

    lane: int
    cond: Conditioning
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
    image_branch: torch.Tensor  # (image rows,)
    text_branch: torch.Tensor  # (text rows,)

    @property
    def image_lengths(self) -> list[int]:
        """Image rows of each branch, in memory order."""
        return [branch.image_rows for branch in self.branches]


def pack(lanes: Sequence[LaneInput], image_rows: Sequence[int], device: torch.device) -> Packing:
    """Lay out the branches of the lanes, whose images have so many rows each."""
    branches = []
    for index, lane in enumerate(lanes):
        if lane.is_guided and lane.negative is not None:
            branches.append(Branch(index, lane.negative, image_rows[index]))
        branches.append(Branch(index, lane.cond, image_rows[index]))
    branches.sort(key=lambda branch: (branch.image_rows, branch.text_rows))
    groups: list[Group] = []
    image_start = text_start = position = 0
    while position < len(branches):
        shape = branches[position].image_rows, branches[position].text_rows
        count = 1
        while position + count < len(branches) and shape == (
            branches[position + count].image_rows,
            branches[position + count].text_rows,
        ):
            count += 1
        groups.append(Group(count, image_start, shape[0], text_start, shape[1]))
        image_start += count * shape[0]
        text_start += count * shape[1]
        position += count
    numbers = torch.arange(len(branches))
    image_lengths = torch.tensor([b.image_rows for b in branches])
    text_lengths = torch.tensor([b.text_rows for b in branches])
    return Packing(
        tuple(branches),
        tuple(groups),
        torch.repeat_interleave(numbers, image_lengths).to(device),
        torch.repeat_interleave(numbers, text_lengths).to(device),
    )
