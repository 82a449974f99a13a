"""Weights as a difference to those of a base: what comes back, what it takes, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lego_serve.models.derived.difference import decode_difference, encode_difference, write_difference
from lego_serve.models.derived.origin import FILE, Origin, origin_of
from lego_serve.models.registry import built_in_folder

State: TypeAlias = dict[str, torch.Tensor]
LEGO_TINY = built_in_folder("builtin:lego-tiny")
BYTES = 6_000_000  # that a student of lego-tiny may add to the package


def states(seed: int, size: float) -> tuple[State, State]:
    """A base and a student that is off by numbers of a size: two matrices, a convolution, a vector, a table as is."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"wide": (6, 256), "tall": (1100, 2), "patch": (64, 8, 2, 2), "bias": (40,), "table": (1, 16, 128)}
    base = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    off = {name: size * torch.randn(shape, generator=rng) for name, shape in shapes.items() if name != "table"}
    off["wide"][2] = 0  # a row that was not changed
    return base, {name: weight + off.get(name, 0) for name, weight in base.items()}


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
def test_a_weight_of_a_matrix_comes_back_within_half_a_code_of_its_row(seed: int, size: float) -> None:
    """One of a vector within fp16's half step, what is unchanged as it was, and all of it the same bits each time."""
    base, student = states(seed, size)
    difference, unchanged = encode_difference(base, student)
    made = decode_difference(base, difference, unchanged)
    assert unchanged == ("table",)
    assert torch.equal(made["table"], base["table"])
    for name in ("wide", "tall", "patch"):
        rounding = 2**-23 * student[name].abs().amax()  # of the sums
        error = (made[name] - student[name]).abs().flatten(1).amax(1)
        assert (error <= difference[f"scales:{name}"] * 0.5001 + rounding).all()
    off = (student["bias"] - base["bias"]).abs().amax()
    assert (made["bias"] - student["bias"]).abs().amax() <= off * 2**-10 + 2**-23 * student["bias"].abs().amax() + 1e-7
    again = decode_difference(base, difference, unchanged)
    assert all(torch.equal(made[name], again[name]) for name in made)


def test_a_student_of_lego_tiny_takes_less_than_may_be_added(tmp_path: Path) -> None:
    """Every weight of it differs, but for the position table; as a model of its own it took 7.1 MB and more."""
    [file] = (LEGO_TINY / "transformer").glob("*.safetensors")
    base, rng = load_file(file), torch.Generator().manual_seed(0)
    student = {
        name: weight.float() + (0.01 * torch.randn(weight.shape, generator=rng) if name != "pos_embed.pos_embed" else 0)
        for name, weight in base.items()
    }
    size = write_difference(tmp_path, base, student, Origin("builtin:lego-tiny", "0" * 64))
    assert size == (tmp_path / FILE).stat().st_size
    assert 3_000_000 < size < BYTES
    assert origin_of(tmp_path) == Origin("builtin:lego-tiny", "0" * 64, ("pos_embed.pos_embed",))


def test_a_student_of_another_shape_is_refused() -> None:
    """So is one with weights missing or too many, or with a number that is none."""
    base, student = states(0, 0.1)
    broken: dict[str, State] = {
        "weight bias has the shape": student | {"bias": torch.zeros(41)},
        "weight bias is missing, of 5": {name: weight for name, weight in student.items() if name != "bias"},
        "weight more is none of its base's": student | {"more": torch.zeros(1)},
        "weight wide differs .* not finite": student | {"wide": torch.full((6, 256), torch.nan)},
        "more than fp16 has": student | {"bias": torch.full((40,), 1e6)},
    }
    for words, state in broken.items():
        with pytest.raises(ValueError, match=words):
            encode_difference(base, state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("codes:wide"), "weight wide lacks its codes"),
        (lambda state: state.pop("scales:tall"), "weight tall lacks its scales"),
        (lambda state: state.pop("plain:bias"), "weight bias is missing"),
        (lambda state: state.update({"plain:bias": torch.zeros(39).half()}), r"bias .* \[39\] .* \[40\] .* is needed"),
        (lambda state: state.update({"codes:wide": torch.zeros(6, 256)}), "int8 is needed"),
        (lambda state: state.update({"scales:wide": torch.full((6,), torch.inf)}), "not finite"),
        (lambda state: state.update({"plain:other": torch.zeros(1).half()}), "weight other is none of its base's"),
    ],
)
def test_a_damaged_difference_is_refused(change: Callable[[State], object], words: str) -> None:
    """The error names the weight."""
    base, student = states(0, 0.1)
    difference, unchanged = encode_difference(base, student)
    change(difference)
    with pytest.raises(ValueError, match=words):
        decode_difference(base, difference, unchanged)


def test_a_file_says_what_it_is_a_difference_to(tmp_path: Path) -> None:
    """A base that begins with a dot lies beside it; another format, and a file without a base, are refused."""
    assert origin_of(tmp_path) is None
    metadata = {"format": "1", "base": "../base", "base_weights": "a" * 64, "unchanged": json.dumps(["b"])}
    save_file({}, tmp_path / FILE, metadata)
    assert origin_of(tmp_path) == Origin(str(tmp_path.parent / "base"), "a" * 64, ("b",))
    for broken in (metadata | {"format": "2"}, {"format": "1"}):
        save_file({}, tmp_path / FILE, broken)
        with pytest.raises(ValueError, match=r"difference\.safetensors says of no base"):
            origin_of(tmp_path)
    (tmp_path / FILE).write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="damaged or incomplete: its header is too long"):
        origin_of(tmp_path)
