"""The memory layout of a step's branches: all image rows together, all text rows together.

Branches of one shape lie side by side, so that a group is a slice of the rows and attention over
it needs no copy.  Nothing is padded, unless buckets are asked for: then zero rows that belong to no
group fill the last bucket, so that a compiled or captured forward pass sees few shapes.  Lengths
are built on the CPU.  A guided lane brings two branches, unconditional first.  A branch that reuses
activations computes only some rows of its image, attends to kept rows as well, and is a group by itself.  Branches that
attend to the same appended rows, beside all of their own, share a group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Protocol

import torch
from torch.nn import functional as F

from lego_serve.models.ragged.activations import BranchReuse, Capture, Reuse, Rows
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.device import uploaded


@dataclass(frozen=True, slots=True)
class Branch:
    """A lane's conditional or unconditional half; ``lane`` is its index in the batch."""

    lane: int
    prompt: PreparedPrompt
    image_rows: int
    is_negative: bool = False
    reuse: BranchReuse | None = None
    appended: tuple[Rows, ...] = ()
    appended_number: int = -1  # the same for branches with the same appended rows
    capture: Capture | None = None  # what its activations are captured into
    block_rows: tuple[int, ...] = ()  # image rows by block; empty where every block has all of them

    @property
    def text(self) -> torch.Tensor:
        """The text rows to compute: the prompt's tokens, or none where kept ones are read."""
        return self.prompt.tokens[:0] if self.reuse is not None and self.reuse.reads_text else self.prompt.tokens

    @property
    def text_rows(self) -> int:
        """The number of text rows to compute."""
        return int(self.text.shape[0])

    @property
    def group_key(self) -> tuple[int, int, int, int]:
        """The key that branches of one group share: shape and appended rows; unique for a branch that reuses."""
        own = -1 if self.reuse is None else 2 * self.lane + self.is_negative
        return self.image_rows, self.text_rows, own, self.appended_number


@dataclass(frozen=True, slots=True)
class Group:
    """Branches of one shape: rows [image_start, image_start + count * image_rows) and likewise for text."""

    count: int
    image_start: int
    image_rows: int
    text_start: int
    text_rows: int
    reuse: BranchReuse | None = None
    appended: tuple[Rows, ...] = ()

    @property
    def joint_rows(self) -> int:
        """Rows of one branch where text and image are one sequence."""
        return self.text_rows + self.image_rows

    @property
    def joint_slice(self) -> slice:
        """The group's rows where text and image are one sequence."""
        start = self.image_start + self.text_start
        return slice(start, start + self.count * self.joint_rows)

    @property
    def image_slice(self) -> slice:
        """The group's image rows."""
        return slice(self.image_start, self.image_start + self.count * self.image_rows)

    @property
    def text_slice(self) -> slice:
        """The group's text rows."""
        return slice(self.text_start, self.text_start + self.count * self.text_rows)


@dataclass(frozen=True, slots=True)
class CaptureSlices:
    """The rows of a branch whose activations are captured ``into`` an entry, apart and in the joint sequence."""

    image: slice
    text: slice
    joint_text: slice
    joint_image: slice
    into: Capture


@dataclass(frozen=True, slots=True)
class Packing:
    """The branches in memory order, their groups, and for each row the branch it belongs to."""

    branches: tuple[Branch, ...]
    groups: tuple[Group, ...]
    image_branch: torch.Tensor  # (image rows and fill,)
    text_branch: torch.Tensor  # (text rows and fill,)
    joint_branch: torch.Tensor  # (image and text rows and fill,)
    captures: tuple[CaptureSlices, ...] = ()
    bucket_rows: int = 1

    def capture(self, attention_id: str, image: torch.Tensor, text: torch.Tensor | None = None) -> None:
        """Capture keys and values of an attention over image and text rows, both (rows, 3, heads, head width)."""
        for rows in self.captures:
            text_kv = image[:0, 1:] if text is None else text[rows.text, 1:]
            rows.into.put(attention_id, image[rows.image, 1:], text_kv)

    def capture_joint(self, attention_id: str, joint: torch.Tensor) -> None:
        """Capture keys and values of an attention over joint rows (rows, 3, heads, head width)."""
        for rows in self.captures:
            rows.into.put(attention_id, joint[rows.joint_image, 1:], joint[rows.joint_text, 1:])

    @property
    def image_lengths(self) -> list[int]:
        """Image rows of each branch, in memory order."""
        return [branch.image_rows for branch in self.branches]

    @property
    def text_lengths(self) -> list[int]:
        """Text rows of each branch, in memory order."""
        return [branch.text_rows for branch in self.branches]

    def rows_of(self, parts: Sequence[torch.Tensor], row_branch: torch.Tensor) -> torch.Tensor:
        """Concatenate the branches' rows, and zero rows up to the length of ``row_branch`` (rows and fill,)."""
        missing = row_branch.shape[0] - sum(part.shape[0] for part in parts)
        return torch.cat([*parts, parts[0].new_zeros(missing, parts[0].shape[1])] if missing else list(parts))

    def bounds(self, stream: str) -> list[tuple[int, int]]:
        """Return rows [start, stop) of each branch in ``image``, ``text``, ``joint`` or ``branch`` (one row each)."""
        image, text = self.image_lengths, self.text_lengths
        lengths = {
            "image": image,
            "text": text,
            "joint": [image_rows + text_rows for image_rows, text_rows in zip(image, text, strict=True)],
            "branch": [1] * len(self.branches),
        }[stream]
        ends = list(accumulate(lengths))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def join(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Merge image and text rows into joint rows: one sequence a branch, text first."""
        parts = []
        for group in self.groups:
            text_rows = text[group.text_slice].unflatten(0, (group.count, group.text_rows))
            image_rows = image[group.image_slice].unflatten(0, (group.count, group.image_rows))
            parts.append(torch.cat([text_rows, image_rows], dim=1).flatten(0, 1))
        return self.rows_of(parts, self.joint_branch)

    def image_part(self, joint: torch.Tensor) -> torch.Tensor:
        """Return the image rows of joint rows."""
        parts = []
        for group in self.groups:
            rows = joint[group.joint_slice].unflatten(0, (group.count, group.joint_rows))
            parts.append(rows[:, group.text_rows :].flatten(0, 1))
        return self.rows_of(parts, self.image_branch)


class BranchedLane(Protocol):
    """The prompts of a lane, which decide its branches: a LaneInput, or a lane as a ControlNet sees it."""

    @property
    def cond(self) -> PreparedPrompt:
        """The prompt."""
        ...

    @property
    def negative(self) -> PreparedPrompt | None:
        """The unconditional branch's prompt, where the step is guided by one."""
        ...


def pack(
    lanes: Sequence[BranchedLane],
    image_rows: Sequence[int],
    device: torch.device,
    *,
    uses_cfg: bool = True,
    bucket_rows: int = 1,
    reuses: Mapping[int, Reuse] | None = None,
    captures: Mapping[tuple[int, bool], Capture] | None = None,
    appended: Mapping[int, tuple[Rows, ...]] | None = None,
    block_rows: Mapping[int, tuple[int, ...]] | None = None,
) -> Packing:
    """Lay out the branches of the lanes; ``image_rows`` are those each lane computes.

    Without ``uses_cfg`` (the model embeds the guidance instead) a lane is one branch.  Image rows and text rows are
    filled up to a multiple of ``bucket_rows``.  ``reuses``, ``appended`` and ``block_rows`` are by the lane's index,
    ``captures`` by that and whether the branch is the unconditional one.  Raises ValueError for a guided lane that
    reuses activations for one branch alone.
    """
    branches = branches_of(lanes, image_rows, uses_cfg=uses_cfg)
    if reuses:
        branches = [_with_reuse(branch, reuses.get(branch.lane), device) for branch in branches]
    if appended:
        branches = _with_appended(branches, appended)
    if captures:
        branches = [replace(each, capture=captures.get((each.lane, each.is_negative))) for each in branches]
    if block_rows:
        branches = [replace(branch, block_rows=block_rows.get(branch.lane, ())) for branch in branches]
    if reuses or appended or block_rows:
        branches.sort(key=lambda branch: (branch.group_key, branch.block_rows))
    image_lengths, text_lengths = [b.image_rows for b in branches], [b.text_rows for b in branches]
    joint_lengths = [image + text for image, text in zip(image_lengths, text_lengths, strict=True)]
    return Packing(
        branches=tuple(branches),
        groups=tuple(groups_of(branches)),
        image_branch=uploaded(_row_branch(image_lengths, bucket_rows), device),
        text_branch=uploaded(_row_branch(text_lengths, bucket_rows), device),
        joint_branch=uploaded(_row_branch(joint_lengths, bucket_rows), device),
        captures=tuple(capture_slices(branches)),
        bucket_rows=bucket_rows,
    )


def _with_reuse(branch: Branch, reuse: Reuse | None, device: torch.device) -> Branch:
    if reuse is None:
        return branch
    rows = reuse.negative if branch.is_negative else reuse.cond
    if rows is None:
        raise ValueError("a guided lane that reuses needs rows for both branches")
    reads_text = reuse.reads_text and branch.is_negative
    return replace(branch, reuse=BranchReuse(uploaded(reuse.active, device), rows, reads_text))


def _with_appended(branches: Sequence[Branch], appended: Mapping[int, tuple[Rows, ...]]) -> list[Branch]:
    numbers: dict[tuple[int, ...], int] = {}
    found = []
    for branch in branches:
        rows = appended.get(branch.lane, ())
        number = numbers.setdefault(tuple(map(id, rows)), len(numbers)) if rows else -1
        found.append(replace(branch, appended=rows, appended_number=number))
    return found


def capture_slices(branches: Sequence[Branch]) -> Iterator[CaptureSlices]:
    """Yield the rows of each branch that is captured."""
    image = text = 0  # rows before the branch
    for branch in branches:
        image_end, text_end = image + branch.image_rows, text + branch.text_rows
        if branch.capture is not None:
            yield CaptureSlices(
                image=slice(image, image_end),
                text=slice(text, text_end),
                joint_text=slice(image + text, image + text_end),
                joint_image=slice(image + text_end, image_end + text_end),
                into=branch.capture,
            )
        image, text = image_end, text_end


def branches_of(lanes: Sequence[BranchedLane], image_rows: Sequence[int], *, uses_cfg: bool = True) -> list[Branch]:
    """Return the branches of lanes in memory order: by shape, then in the lanes' order, unconditional first."""
    branches = []
    for index, lane in enumerate(lanes):
        if uses_cfg and lane.negative is not None:
            branches.append(Branch(index, lane.negative, image_rows[index], is_negative=True))
        branches.append(Branch(index, lane.cond, image_rows[index]))
    return sorted(branches, key=lambda branch: (branch.image_rows, branch.text_rows))


def groups_of(branches: Sequence[Branch]) -> Iterator[Group]:
    """Yield the groups of branches that lie in this order: neighbours of one shape."""
    image_start = text_start = 0
    for (image_rows, text_rows, _, _), members in groupby(branches, key=lambda branch: branch.group_key):
        group = list(members)
        yield Group(
            count=len(group),
            image_start=image_start,
            image_rows=image_rows,
            text_start=text_start,
            text_rows=text_rows,
            reuse=group[0].reuse,
            appended=group[0].appended,
        )
        image_start += len(group) * image_rows
        text_start += len(group) * text_rows


def _row_branch(lengths: Sequence[int], bucket_rows: int) -> torch.Tensor:
    """Number each row by its branch; fill rows are numbered 0, whose modulation does them no harm."""
    row_branch = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths), output_size=sum(lengths))
    return F.pad(row_branch, (0, -len(row_branch) % bucket_rows))
