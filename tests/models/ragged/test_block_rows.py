"""Blocks over chosen rows: next to diffusers' blocks with masks, and beside any mates."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.models.families.flux import FluxBackbone, pack_latents
from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.ragged.activations import KeptKeys, Reuse
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.pruning.router import BlockRouter, highest
from tests.support.builders import RawLane, raw_lane
from tests.support.lora.adapters import adapter, diffusers_names, products
from tests.support.pruning import reference
from tests.support.transformers import FLUX_FORMS, SD3_FORMS, flux_transformer, sd3_transformer, tokens_of

IMAGE, WIDTH = 64, 64  # rows of a lane's image, and the model's width
SD3_ROWS, FLUX_ROWS = (64, 40, 23), (64, 40, 23, 64, 17)
LINES = st.integers(1, 12).flatmap(
    lambda rows: st.lists(st.lists(st.integers(-3, 3), min_size=rows, max_size=rows), min_size=1, max_size=4)
)


def model_of(family: str, form: str | None = None) -> Any:
    """A miniature with an untrained router."""
    if family == "sd3":
        model: Any = Sd3Backbone(sd3_transformer(form or "SD3.5-medium"), 8)
    else:
        model = FluxBackbone(flux_transformer(form or "FLUX.1-dev"), 8)
    blocks = len(SD3_ROWS if family == "sd3" else FLUX_ROWS)
    model.router = BlockRouter.drawn(blocks, WIDTH, seed=1).on(model.device, model.linear_ops)
    return model


def rows_of(family: str) -> tuple[int, ...]:
    """How many rows each block computes."""
    return SD3_ROWS if family == "sd3" else FLUX_ROWS


def pruned(raw: RawLane, model: Any, rows: tuple[int, ...]) -> LaneInput:
    """A lane with rows per block."""
    return replace(raw.for_model(model), block_rows=rows)


@given(LINES, st.data())
def test_the_highest_are_taken_and_of_equals_the_first(lines: list[list[int]], data: st.DataObject) -> None:
    """Each line by itself, in ascending order of rows."""
    count = data.draw(st.integers(1, len(lines[0])))
    wanted = [sorted(sorted(range(len(line)), key=lambda i, line=line: (-line[i], i))[:count]) for line in lines]
    assert highest(torch.tensor(lines, dtype=torch.float32), count).tolist() == wanted


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("form", SD3_FORMS)
def test_an_sd3_lane_is_that_of_diffusers_blocks_with_masks(form: str, guidance: float) -> None:
    """Rows that are not chosen are no keys and keep their value; both branches take the same."""
    lane, model = raw_lane(1, guidance=guidance), model_of("sd3", form)
    found = tokens_of(model.velocity([pruned(lane, model, SD3_ROWS)])[0])
    with torch.inference_mode():
        wanted = reference.sd3(sd3_transformer(form), model.router, lane, SD3_ROWS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=5e-5)
    assert (found - tokens_of(model.velocity([lane.for_model(model)])[0])).abs().max() > 0.01


@pytest.mark.parametrize("form", FLUX_FORMS)
def test_a_flux_lane_is_that_of_diffusers_blocks_with_masks(form: str) -> None:
    """In double blocks and in single ones, whose text rows are whole."""
    lane, model = raw_lane(1), model_of("flux", form)
    found = pack_latents(model.velocity([pruned(lane, model, FLUX_ROWS)])[0], (8, 8))
    with torch.inference_mode():
        wanted = reference.flux(flux_transformer(form), model.router, lane, FLUX_ROWS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=5e-5)
    assert (found - pack_latents(model.velocity([lane.for_model(model)])[0], (8, 8))).abs().max() > 0.01


def mates_of(model: Any, rows: tuple[int, ...]) -> list[LaneInput]:
    """Lanes of other budgets, sizes and texts, whole ones, one that is captured, one that reuses, an unguided one."""
    whole, keys = raw_lane(5).for_model(model), (KeptKeys(), KeptKeys())
    captured = replace(raw_lane(6, 12, 12).for_model(model), capture=keys[0], capture_negative=keys[1])
    if not model.uses_cfg:
        captured = replace(captured, capture_negative=None)
    model.velocity([captured])
    reuse = Reuse(torch.tensor([1, 5, 30]), keys[0], keys[1] if model.uses_cfg else None)
    return [
        pruned(raw_lane(2), model, (64, *[9] * (len(rows) - 1))),
        whole,
        pruned(raw_lane(3, 8, 20, text_rows=11), model, (40, *[31] * (len(rows) - 1))),
        replace(captured, capture=KeptKeys(), capture_negative=KeptKeys() if model.uses_cfg else None),
        replace(captured, capture=None, capture_negative=None, reuse=reuse),
        pruned(raw_lane(4, guidance=1.0), model, rows),
        pruned(raw_lane(7), model, rows),
    ]


@pytest.mark.parametrize("bucket_rows", [1, 32])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_lanes_have_the_same_bits_alone_and_among_mates(family: str, bucket_rows: int) -> None:
    """The pruned, the whole, and what is captured of a whole one; in buckets too."""
    model, rows = model_of(family), rows_of(family)
    model.bucket_rows = bucket_rows
    lanes = [*mates_of(model, rows), pruned(raw_lane(1), model, rows)]
    together = model.velocity(lanes)
    into = lanes[3].capture
    assert isinstance(into, KeptKeys)
    kept = {name: rows.clone() for name, rows in into.by_attention.items()}
    for lane, found in zip(lanes, together, strict=True):
        assert torch.equal(model.velocity([lane])[0], found)
    assert all(torch.equal(into.by_attention[name], rows) for name, rows in kept.items())
    for lane, found in zip(lanes[::-1], model.velocity(lanes[::-1]), strict=True):
        assert torch.equal(model.velocity([lane])[0], found)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_lane_whose_blocks_compute_all_rows_is_a_whole_lane(family: str) -> None:
    """Bit for bit."""
    model = model_of(family)
    whole = raw_lane(1).for_model(model)
    full = replace(whole, block_rows=(IMAGE,) * len(rows_of(family)))
    assert torch.equal(model.velocity([full])[0], model.velocity([whole])[0])


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_adapters_add_to_the_rows_of_their_own_lane(family: str) -> None:
    """Wherever these lie: as patched weights say within rounding, and with the same bits among mates."""
    model, rows = model_of(family), rows_of(family)
    base = BaseLayers("mine", family, model.adapters.shapes)
    one, two = (adapter(base, diffusers_names(products(base, seed)), f"a{seed}") for seed in range(2))
    lane = replace(pruned(raw_lane(1), model, rows), adapters=((one, 1.0),))
    alone = model.velocity([lane])[0]
    mates = [*mates_of(model, rows), replace(raw_lane(8).for_model(model), adapters=((two, 0.5),))]
    assert torch.equal(model.velocity([*mates[:4], lane, *mates[4:]])[4], alone)
    model.adapters.patch(((one, 1.0),))
    torch.testing.assert_close(model.velocity([lane])[0], alone, rtol=1e-3, atol=1e-3)
    model.adapters.restore()
    assert (model.velocity([replace(lane, adapters=())])[0] - alone).abs().max() > 0.01


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_lane_that_is_no_numbers_breaks_no_other(family: str) -> None:
    """Its rows are chosen somehow."""
    model, rows = model_of(family), rows_of(family)
    good, bad = pruned(raw_lane(1), model, rows), pruned(raw_lane(2), model, rows)
    bad = replace(bad, latents=torch.full_like(bad.latents, torch.nan))
    found = model.velocity([bad, good])
    assert torch.isnan(found[0]).any()
    assert torch.equal(found[1], model.velocity([good])[0])


def test_a_model_without_a_router_refuses_lanes_that_need_it() -> None:
    """It could not say which rows."""
    model = model_of("sd3")
    lane = pruned(raw_lane(1), model, SD3_ROWS)
    model.router = None
    with pytest.raises(ValueError, match="need a model with a router"):
        model.velocity([lane])
