"""How branches lie in memory: every row at its stated place, and back again."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Reuse
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.packing import Branch, Packing, branches_of, pack

CPU = torch.device("cpu")
WIDTH = 3


@dataclass(frozen=True)
class Lane:
    """The prompts of a lane."""

    cond: PreparedPrompt
    negative: PreparedPrompt | None = None


@dataclass(frozen=True)
class Batch:
    """Lanes, and the image rows each computes."""

    lanes: list[Lane]
    image_rows: list[int]


def prompt(lane: int, rows: int, *, is_negative: bool = False) -> PreparedPrompt:
    """A prompt whose rows name the lane, the branch and the row."""
    return PreparedPrompt(named_rows(lane, is_negative, rows), torch.zeros(WIDTH))


def named_rows(lane: int, is_negative: bool, rows: int) -> torch.Tensor:
    """Rows (rows, WIDTH) of numbers that no others share."""
    names = [[1.0 + lane, float(is_negative), 1.0 + row] for row in range(rows)]
    return torch.tensor(names).view(rows, WIDTH)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Lanes of few shapes, so that some share theirs, guided and not."""
    lanes, image_rows = [], []
    for index in range(draw(st.integers(1, 6))):
        negative_rows = draw(st.none() | st.integers(1, 3))
        negative = None if negative_rows is None else prompt(index, negative_rows, is_negative=True)
        lanes.append(Lane(prompt(index, draw(st.integers(1, 3))), negative))
        image_rows.append(draw(st.integers(1, 3)))
    return Batch(lanes, image_rows)


def images_of(packing: Packing) -> list[torch.Tensor]:
    """Each branch's image rows."""
    return [-named_rows(branch.lane, branch.is_negative, branch.image_rows) for branch in packing.branches]


def texts_of(packing: Packing) -> list[torch.Tensor]:
    """Each branch's text rows."""
    return [branch.text for branch in packing.branches]


@given(batch=batches(), uses_cfg=st.booleans())
def test_every_lane_has_its_branches_and_no_other(batch: Batch, uses_cfg: bool) -> None:
    """One, or two where it is guided and the model has that guidance; each with its own prompt and rows."""
    packing = pack(batch.lanes, batch.image_rows, CPU, uses_cfg=uses_cfg)
    expected = {(index, False): lane.cond for index, lane in enumerate(batch.lanes)}
    if uses_cfg:
        expected |= {(i, True): lane.negative for i, lane in enumerate(batch.lanes) if lane.negative is not None}
    assert {(branch.lane, branch.is_negative): branch.prompt for branch in packing.branches} == expected
    assert len(packing.branches) == len(expected)
    assert packing.image_lengths == [batch.image_rows[branch.lane] for branch in packing.branches]


@given(batch=batches())
def test_branches_of_one_shape_lie_in_the_order_of_their_lanes_unconditional_first(batch: Batch) -> None:
    """And shapes in rising order, so that where a lane comes from does not depend on what the others are guided by."""
    branches = branches_of(batch.lanes, batch.image_rows)

    def place(branch: Branch) -> tuple[int, int, int, bool]:
        return branch.image_rows, branch.text_rows, branch.lane, not branch.is_negative

    assert all(place(first) < place(second) for first, second in pairwise(branches))


@given(batch=batches(), bucket=st.integers(1, 8))
def test_rows_lie_where_the_bounds_say_and_zeros_fill_the_last_bucket(batch: Batch, bucket: int) -> None:
    """In image rows and in text rows; each row knows its branch."""
    packing = pack(batch.lanes, batch.image_rows, CPU, bucket_rows=bucket)
    streams = {"image": (images_of(packing), packing.image_branch), "text": (texts_of(packing), packing.text_branch)}
    for stream, (parts, row_branch) in streams.items():
        rows = packing.rows_of(parts, row_branch)
        assert len(rows) == len(row_branch)
        assert len(rows) % bucket == 0
        assert len(rows) - sum(map(len, parts)) < bucket
        bounds = packing.bounds(stream)
        for index, ((start, stop), part) in enumerate(zip(bounds, parts, strict=True)):
            assert torch.equal(rows[start:stop], part)
            assert (row_branch[start:stop] == index).all()
        assert not rows[bounds[-1][1] :].any()
        assert not row_branch[bounds[-1][1] :].any()
    assert packing.bounds("branch") == [(index, index + 1) for index in range(len(packing.branches))]


@given(batch=batches(), bucket=st.integers(1, 8))
def test_text_and_image_joined_are_one_sequence_a_branch_and_come_apart_again(batch: Batch, bucket: int) -> None:
    """Text first; what fills a bucket is never joined."""
    packing = pack(batch.lanes, batch.image_rows, CPU, bucket_rows=bucket)
    images, texts = images_of(packing), texts_of(packing)
    image = packing.rows_of(images, packing.image_branch)
    joint = packing.join(image, packing.rows_of(texts, packing.text_branch))
    assert len(joint) == len(packing.joint_branch)
    for index, (start, stop) in enumerate(packing.bounds("joint")):
        assert torch.equal(joint[start:stop], torch.cat([texts[index], images[index]]))
        assert (packing.joint_branch[start:stop] == index).all()
    assert torch.equal(packing.image_part(joint), image)


@given(batch=batches())
def test_groups_are_the_branches_of_one_shape_side_by_side(batch: Batch) -> None:
    """All rows are in one group each, and no two groups have one shape."""
    packing = pack(batch.lanes, batch.image_rows, CPU)
    shapes = [(group.image_rows, group.text_rows) for group in packing.groups]
    assert len(set(shapes)) == len(shapes)
    assert [shape for group, shape in zip(packing.groups, shapes, strict=True) for _ in range(group.count)] == [
        (branch.image_rows, branch.text_rows) for branch in packing.branches
    ]
    for stream in ("image", "text", "joint"):
        slices = [getattr(group, f"{stream}_slice") for group in packing.groups]
        ends = [rows.stop for rows in slices]
        assert [rows.start for rows in slices] == [0, *ends[:-1]]
        assert ends[-1] == packing.bounds(stream)[-1][1]


def entry(rows: int, text_rows: int = 0) -> Activations:
    """Kept activations of an image, and of a text beside it."""
    kept = Activations(ACTIVATION_CODECS["float32"], keeps_text=text_rows > 0)
    kept.put("0", torch.zeros(rows, 2, 1, WIDTH), torch.zeros(text_rows, 2, 1, WIDTH))
    return kept


@pytest.mark.parametrize("reads_text", [False, True])
def test_a_branch_that_reuses_activations_is_a_group_by_itself(reads_text: bool) -> None:
    """Among branches of its own shape too; its unconditional half computes no text rows where it reads them."""
    lanes = [Lane(prompt(i, 2), prompt(i, 2, is_negative=True)) for i in range(3)]
    reuse = Reuse(torch.tensor([1, 4]), entry(6), entry(6, 2), reads_text)
    packing = pack(lanes, [2, 2, 2], CPU, reuses={1: reuse})
    groups = sorted((group.count, group.reuse is not None) for group in packing.groups)
    assert groups == [(1, True), (1, True), (4, False)]
    for branch in packing.branches:
        assert (branch.reuse is not None) == (branch.lane == 1)
        reads = reads_text and branch.lane == 1 and branch.is_negative
        assert branch.text_rows == (0 if reads else 2)
        if branch.reuse is not None:
            assert branch.reuse.rows is (reuse.negative if branch.is_negative else reuse.cond)


def test_a_guided_lane_that_reuses_needs_rows_for_both_branches() -> None:
    """One that brings them for one alone is refused; without guidance one is enough."""
    lane, reuse = Lane(prompt(0, 2), prompt(0, 2, is_negative=True)), Reuse(torch.tensor([1]), entry(6))
    with pytest.raises(ValueError, match="both branches"):
        pack([lane], [1], CPU, reuses={0: reuse})
    assert pack([Lane(lane.cond)], [1], CPU, reuses={0: reuse}).branches[0].reuse is not None


@given(batch=batches(), data=st.data())
def test_a_captured_branch_leaves_its_own_rows_apart_and_joined(batch: Batch, data: st.DataObject) -> None:
    """The keys and values of the conditional one, image then text, in both forms of attention."""
    captured = data.draw(st.sets(st.sampled_from(range(len(batch.lanes)))))
    entries = {index: Activations(ACTIVATION_CODECS["float32"], keeps_text=True) for index in captured}
    packing = pack(
        batch.lanes, batch.image_rows, CPU, captures={(index, False): kept for index, kept in entries.items()}
    )
    image = heads(packing.rows_of(images_of(packing), packing.image_branch))
    text = heads(packing.rows_of(texts_of(packing), packing.text_branch))
    packing.capture("apart", image, text)
    packing.capture("image alone", image)
    packing.capture_joint("joint", packing.join(image.flatten(1), text.flatten(1)).unflatten(1, (3, 1, WIDTH)))
    for index, kept in entries.items():
        rows = batch.image_rows[index]
        own = heads(torch.cat([-named_rows(index, False, rows), batch.lanes[index].cond.tokens]))[:, 1:]
        for attention_id in ("apart", "joint"):
            assert torch.equal(kept.by_attention[attention_id][0], own)
        assert torch.equal(kept.by_attention["image alone"][0], own[:rows])


def heads(rows: torch.Tensor) -> torch.Tensor:
    """Rows (rows, width) as q, k and v of one head (rows, 3, 1, width): once, twice and thrice the same."""
    return torch.stack([rows, 2 * rows, 3 * rows], dim=1)[:, :, None]
