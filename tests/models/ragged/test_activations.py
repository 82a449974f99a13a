"""Kept activations: what masked lanes compute, next to a forward pass that computes everything."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Reuse, entry_bytes
from tests.support.builders import raw_lane
from tests.support.transformers import SD3_FORMS as FORMS
from tests.support.transformers import captured, rows_at, tokens_of
from tests.support.transformers import sd3_transformer as transformer


def backbone(form: str = "SD3.5-medium") -> Sd3Backbone:
    """A miniature; SD3.5's has a second attention besides."""
    return Sd3Backbone(transformer(form), 8)


@pytest.mark.parametrize("reads_text", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_rows_computed_from_ones_own_activations_are_those_of_the_whole(form: str, reads_text: bool) -> None:
    """Nothing is lost: with what the lane itself left behind, any part of it comes out as in the full pass.

    So it is where the unconditional branch computes no text rows but reads them.
    """
    model = backbone(form)
    lane = raw_lane(1).for_model(model)
    whole, cond, negative = captured(model, lane)
    active = torch.tensor([3, 4, 17, 40, 63])
    part = model.velocity([replace(lane, reuse=Reuse(active, cond, negative, reads_text))])[0]
    torch.testing.assert_close(tokens_of(part)[active], tokens_of(whole)[active], rtol=0, atol=2e-5)
    outside = torch.ones(64, dtype=torch.bool)
    outside[active] = False
    assert not tokens_of(part)[outside].any()


@pytest.mark.parametrize("reads_text", [False, True])
def test_a_masked_lane_has_the_same_bits_alone_and_among_others(reads_text: bool) -> None:
    """Full lanes, another masked one, and the pass that leaves what it reads, all in one batch."""
    model = backbone()
    lane, other = raw_lane(1).for_model(model), raw_lane(2, 12, 20).for_model(model)
    _, cond, negative = captured(model, lane, "bfloat16")
    masked = replace(lane, reuse=Reuse(torch.arange(10, 30), cond, negative, reads_text))
    alone = model.velocity([masked])[0]
    _, cond_2, negative_2 = captured(model, other, "bfloat16")
    mate = replace(other, reuse=Reuse(torch.tensor([0, 59]), cond_2, negative_2))
    assert torch.equal(model.velocity([other, mate, masked, lane])[2], alone)
    fresh = [Activations(ACTIVATION_CODECS["bfloat16"], keeps_text=True) for _ in range(2)]
    assert lane.negative is not None
    primers = [
        replace(lane, negative=None, capture=fresh[0]),
        replace(lane, cond=lane.negative, negative=None, capture=fresh[1]),
    ]
    together = replace(lane, reuse=Reuse(torch.arange(10, 30), fresh[0], fresh[1], reads_text))
    assert torch.equal(model.velocity([together, *primers, other])[0], alone)


def test_what_is_read_is_the_text_that_primed() -> None:
    """The unconditional branch's text is that of the entry, whatever the lane brings; the prompt's is computed."""
    model = backbone()
    lane, other = raw_lane(1).for_model(model), raw_lane(2).for_model(model)
    _, cond, negative = captured(model, lane)
    reuse = Reuse(torch.tensor([5, 6]), cond, negative, reads_text=True)
    velocity = model.velocity([replace(lane, reuse=reuse)])[0]
    assert lane.negative is not None
    assert other.negative is not None
    tokens = replace(lane.negative, tokens=other.negative.tokens)
    assert torch.equal(model.velocity([replace(lane, negative=tokens, reuse=reuse)])[0], velocity)
    changed = replace(lane.cond, tokens=other.cond.tokens)
    assert not torch.equal(model.velocity([replace(lane, cond=changed, reuse=reuse)])[0], velocity)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("coding", sorted(ACTIVATION_CODECS))
def test_an_entry_takes_the_bytes_that_were_predicted(form: str, coding: str) -> None:
    """For all attentions: image rows in each, text rows where they take part."""
    model = backbone(form)
    _, cond, _ = captured(model, raw_lane(1).for_model(model), coding)
    assert cond.size_bytes == entry_bytes(ACTIVATION_CODECS[coding], model.attentions, 64, 7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), coding=st.sampled_from(sorted(ACTIVATION_CODECS)))
def test_a_coding_is_as_close_as_its_bits_allow(seed: int, scale: float, coding: str) -> None:
    """fp32 exactly, bf16 to 1 in 256, int8 to a 250th of the row's largest; and what was kept stays as it was."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 2, 3, 16, generator=draw) * scale
    kept = Activations(ACTIVATION_CODECS[coding])
    kept.put("0", rows, rows[:0])
    largest = rows.abs().amax(dim=-1, keepdim=True)
    allowed = {"float32": 0.0 * largest, "bfloat16": rows.abs() / 250, "int8": largest / 200}[coding]
    assert kept.lengths("0") == (5, 0)
    read = rows_at(kept, "0")
    assert ((read - rows).abs() <= allowed).all()
    before = read.clone()
    rows.zero_()
    assert torch.equal(rows_at(kept, "0"), before)


def test_entries_know_their_bytes() -> None:
    """Four, two and about one for a number."""
    rows = torch.randn(64, 2, 4, 32)
    sizes = {}
    for name, coding in ACTIVATION_CODECS.items():
        kept = Activations(coding)
        kept.put("0", rows, rows[:3])
        sizes[name] = kept.size_bytes / rows.numel()
    assert sizes["float32"] == 4
    assert sizes["bfloat16"] == 2
    assert 1 < sizes["int8"] < 1.1
