"""Blocks over chosen rows: of each lane those image rows that a block's router takes, all others passing it by.

Between two blocks all rows lie as the step was packed; a block with fewer takes copies of its own, side by side, and
puts them back.  Text rows are whole everywhere.  A lane that computes all of its rows has the bits that it has alone.
Nothing is read back from the device: how many rows a block has is known, and which ones is a tensor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import Rotation
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.packing import Packing, capture_slices, groups_of
from lego_serve.models.ragged.pruning.router import BlockRouter, highest, merged


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """The rows that a block computes, of image rows or of joint ones, and how these are laid out by themselves.

    ``rows`` is None where the block computes all of them.  ``fill``: zero rows behind, up to a whole bucket.
    """

    rows: torch.Tensor | None
    packing: Packing
    fill: int = 0

    def take(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the rows of a stream, and the fill."""
        if self.rows is None:
            return stream
        taken = stream[self.rows]
        return F.pad(taken, (0, 0, 0, self.fill)) if self.fill else taken

    def take_pair(self, streams: Rotation) -> Rotation:
        """Return the rows of two streams."""
        return self.take(streams[0]), self.take(streams[1])

    def put(self, stream: torch.Tensor, computed: torch.Tensor) -> torch.Tensor:
        """Return the stream with the rows as computed; may overwrite it."""
        return computed if self.rows is None else stream.index_copy_(0, self.rows, computed[: len(self.rows)])


class RowChoice:
    """Runs the blocks of one step's lanes, each over the rows that it computes."""

    def __init__(
        self,
        router: BlockRouter | None,
        lanes: Sequence[LaneInput],
        packing: Packing,
        embedded: torch.Tensor,
        adapters: LoraLayers,
    ) -> None:
        """``embedded`` (branches, width): the time and text of each branch, as the router takes them."""
        if router is None and any(lane.block_rows for lane in lanes):
            raise ValueError("lanes with rows per block need a model with a router of them")
        self._router, self._lanes, self._packing, self._embedded = router, lanes, packing, embedded
        self._adapters, self._bounds = adapters, [slice(*bounds) for bounds in packing.bounds("image")]
        self._pruned = sorted({branch.lane for branch in packing.branches if branch.block_rows})

    @contextmanager
    def of_image(self, block: int, image: torch.Tensor) -> Iterator[ChosenRows]:
        """Choose the image rows of a block over image and text apart; adapters apply to them within the context."""
        lanes = self._choosing(block)
        if not lanes:
            yield ChosenRows(None, self._packing)
            return
        chosen = self._image_rows(block, self._rows_by_lane(block, lanes, image))
        with self._adapters.applied(self._lanes, chosen.packing):
            yield chosen

    @contextmanager
    def of_joint(self, block: int, joint: torch.Tensor) -> Iterator[ChosenRows]:
        """Choose the rows of a block over text and image as one sequence, as ``of_image`` does."""
        lanes = self._choosing(block)
        if not lanes:
            yield ChosenRows(None, self._packing)
            return
        chosen = self._joint_rows(block, self._rows_by_lane(block, lanes, self._packing.image_part(joint)))
        with self._adapters.applied(self._lanes, chosen.packing):
            yield chosen

    def _choosing(self, block: int) -> list[int]:
        """Return the lanes that compute a part of their rows in a block."""
        whole = {branch.lane: branch.image_rows for branch in self._packing.branches}
        return [index for index in self._pruned if self._lanes[index].block_rows[block] < whole[index]]

    def _rows_by_lane(self, block: int, lanes: Sequence[int], image: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return the rows of each lane's image that the block computes, ascending.

        Lanes of as many rows are sorted together, which is faster and changes nothing.
        """
        assert self._router is not None
        own = [i for i, branch in enumerate(self._packing.branches) if branch.lane in lanes]
        parts = [self._bounds[i] for i in own]
        row_branch = torch.cat([self._packing.image_branch[part] for part in parts])
        scores = self._router.scores(block, torch.cat([image[part] for part in parts]), self._embedded, row_branch)
        branches: dict[int, list[slice]] = {}
        start = 0
        for i, part in zip(own, parts, strict=True):
            stop = start + part.stop - part.start
            branches.setdefault(self._packing.branches[i].lane, []).append(slice(start, stop))
            start = stop
        classes: dict[tuple[int, int], dict[int, torch.Tensor]] = {}
        for lane, slices in branches.items():
            found = merged(scores, slices)
            classes.setdefault((len(found), self._lanes[lane].block_rows[block]), {})[lane] = found
        return {
            lane: rows
            for (_, count), members in classes.items()
            for lane, rows in zip(members, highest(torch.stack(list(members.values())), count), strict=True)
        }

    def _image_rows(self, block: int, by_lane: dict[int, torch.Tensor]) -> ChosenRows:
        parts = [
            by_lane[branch.lane] + rows.start if branch.lane in by_lane else _all(rows, self._packing)
            for branch, rows in zip(self._packing.branches, self._bounds, strict=True)
        ]
        return self._chosen(block, torch.cat(parts), is_joint=False)

    def _joint_rows(self, block: int, by_lane: dict[int, torch.Tensor]) -> ChosenRows:
        parts = []
        for branch, (start, stop) in zip(self._packing.branches, self._packing.bounds("joint"), strict=True):
            image = start + branch.text_rows
            if branch.lane in by_lane:
                parts += [_all(slice(start, image), self._packing), by_lane[branch.lane] + image]
            else:
                parts.append(_all(slice(start, stop), self._packing))
        return self._chosen(block, torch.cat(parts), is_joint=True)

    def _chosen(self, block: int, rows: torch.Tensor, *, is_joint: bool) -> ChosenRows:
        """Lay out rows, of which each branch has those of the block, in the branches' order."""
        counted = [
            replace(branch, image_rows=branch.block_rows[block]) if branch.block_rows else branch
            for branch in self._packing.branches
        ]
        fill = -len(rows) % self._packing.bucket_rows
        laid = replace(
            self._packing,
            branches=tuple(counted),
            groups=tuple(groups_of(counted)),
            captures=tuple(capture_slices(counted)),
        )
        numbers = F.pad((laid.joint_branch if is_joint else laid.image_branch)[rows], (0, fill))
        laid = replace(laid, joint_branch=numbers) if is_joint else replace(laid, image_branch=numbers)
        return ChosenRows(rows, laid, fill)


def _all(rows: slice, packing: Packing) -> torch.Tensor:
    return torch.arange(rows.start, rows.stop, device=packing.image_branch.device)
