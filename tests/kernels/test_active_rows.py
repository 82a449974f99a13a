"""gather_rows and scatter_rows on a CPU: their bits, their properties and their errors."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import Blend, examples, gather_rows, reference, scatter_rows
from lego_kernels.active_rows import place_rows

Size = tuple[int, int, int, int | None]
# (channels, lines, tokens a line, active): one of everything; a part; none; all of them; those that have no list
SIZES: list[Size] = [(1, 1, 1, 1), (3, 5, 7, 11), (16, 4, 4, 0), (4, 3, 2, 6), (16, 6, 7, None)]
PARTS = ["last kept blend", "last", "kept", "blend", ""]
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda sides: st.tuples(*map(st.just, sides), st.one_of(st.none(), st.integers(0, sides[1] * sides[2])))
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_reference_bit_for_bit(size: Size, dtype: torch.dtype) -> None:
    """Rows, and each of the three results, with any of the parts."""
    taken = examples.gather_rows(*size, dtype)
    rows = gather_rows(**taken)
    assert rows.dtype == dtype
    assert torch.equal(rows, reference.gather_rows(**taken))
    for parts in PARTS:
        arguments = examples.scatter_rows(*size, dtype, parts=parts)
        for part, expected in zip(scatter_rows(**arguments), reference.scatter_rows(**arguments), strict=True):
            assert part.dtype == dtype
            assert torch.equal(part, expected)


def test_a_step_is_the_formula_that_callers_depend_on() -> None:
    """Euler's, with a difference that is rounded as diffusers rounds it; the image outside the mask."""
    arguments = examples.scatter_rows(4, 3, 5, None, torch.float32)
    x, (sigma, next_sigma), (mask, image, noise) = (arguments[name] for name in ("latents", "sigmas", "blend"))
    stepped, predicted, velocity = scatter_rows(**arguments)
    dt = torch.tensor(next_sigma) - torch.tensor(sigma)
    assert torch.equal(stepped[:, mask], (x + dt * velocity)[:, mask])
    assert torch.equal(predicted[:, mask], torch.sub(x, velocity, alpha=sigma)[:, mask])
    assert torch.equal(stepped[:, ~mask], (next_sigma * noise + (1.0 - next_sigma) * image)[:, ~mask])
    assert torch.equal(predicted[:, ~mask], image[:, ~mask])


@settings(deadline=None, max_examples=50)
@given(size=sizes, last=st.booleans())
def test_rows_that_are_taken_out_and_put_back_are_where_they_were(size: Size, last: bool) -> None:
    """All others are what was kept, or zeros."""
    arguments = examples.scatter_rows(*size, torch.float32, parts="last kept" if last else "kept")
    latents, active, kept = (arguments[name] for name in ("latents", "active", "kept"))
    rows = gather_rows(latents, active, patch=2, dtype=torch.float32)
    if last:
        rows = rows.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1)
    is_active = torch.ones(size[1] * size[2], dtype=torch.bool)
    if active is not None:
        is_active = torch.zeros_like(is_active).index_fill(0, active, True)
    pixels = is_active.view(size[1], size[2]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    whole = place_rows(rows, active, latents, patch=2, channels_last=last, kept=kept)
    assert torch.equal(whole, torch.where(pixels, latents, kept))
    assert torch.equal(
        place_rows(rows, active, latents, patch=2, channels_last=last), torch.where(pixels, latents, 0.0)
    )


def test_what_is_given_stays_as_it_was() -> None:
    """Latents and kept velocities are read by others: previews, checkpoints, a step that runs again."""
    arguments = examples.scatter_rows(4, 3, 5, 7, torch.float32)
    before = {name: arguments[name].clone() for name in ("latents", "rows", "kept")}
    found = scatter_rows(**arguments)
    assert all(torch.equal(arguments[name], value) for name, value in before.items())
    given_places = {arguments[name].data_ptr() for name in before}
    assert given_places.isdisjoint(part.data_ptr() for part in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_token_of_one_pixel_is_a_row_of_its_channels(dtype: torch.dtype) -> None:
    """Patches may be of any size."""
    latents = torch.arange(24.0).view(2, 3, 4).to(dtype)
    if dtype == torch.float64:
        with pytest.raises(ValueError, match=r"latents is torch.float64"):
            gather_rows(latents, None, patch=1, dtype=dtype)
        return
    assert torch.equal(gather_rows(latents, torch.tensor([5]), patch=1, dtype=dtype), latents[None, :, 1, 1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latents": torch.ones(6, 10)}, r"latents has shape \[6, 10\], must be \[C, H, W\] with H and W in 2s"),
        ({"latents": torch.ones(4, 6, 9)}, r"latents has shape \[4, 6, 9\], must be"),
        ({"rows": torch.ones(6, 16)}, r"rows has shape \[6, 16\], must be \[7, 16\]"),
        ({"rows": torch.ones(7, 16).half()}, r"rows of shape \[7, 16\] is torch.float16, must be torch.float32"),
        ({"active": torch.ones(7, 1).long()}, r"active has shape \[7, 1\], must be \[n\]"),
        ({"active": torch.ones(7)}, r"active of shape \[7\] is torch.float32, must be torch.int64"),
        ({"active": None}, r"rows has shape \[7, 16\], must be \[15, 16\]"),
        ({"kept": torch.ones(4, 6, 8)}, r"kept has shape \[4, 6, 8\], must be \[4, 6, 10\]"),
        ({"blend": Blend(torch.ones(6, 10), *torch.ones(2, 4, 6, 10))}, r"mask of shape \[6, 10\] is torch.float32"),
        ({"blend": Blend(torch.ones(6, 10).bool(), *torch.ones(2, 4, 6, 9))}, r"image has shape \[4, 6, 9\]"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(changed: dict[str, Any], message: str) -> None:
    """With its shape and the one it should have."""
    with pytest.raises(ValueError, match=message):
        scatter_rows(**examples.scatter_rows(4, 3, 5, 7, torch.float32) | changed)
