"""qk_norm_rope on a CPU: its bits, diffusers' agreement, its properties and its errors."""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.normalization import RMSNorm
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, qk_norm_rope, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [
    (1, 1, 1, "q k"), (5, 3, 31, "k"), (7, 3, 96, "q k rope"), (3, 24, 128, "q rope"), (2, 1, 1536, "rope"),
    (3, 2, 2, "q k rope"), (4, 4, 32, ""), (0, 4, 64, "q k rope"),
]  # fmt: skip
sizes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40).map(lambda pairs: 2 * pairs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_reference_bit_for_bit(size: tuple[int, int, int, str], dtype: torch.dtype) -> None:
    """With each of its parts left out somewhere."""
    tokens, heads, width, parts = size
    arguments = examples.qk_norm_rope(tokens, heads, width, dtype, parts=parts)
    before = arguments["qkv"].clone()
    actual = qk_norm_rope(**arguments)
    assert torch.equal(actual, reference.qk_norm_rope(**arguments))
    assert torch.equal(actual[:, 2], before[:, 2])
    assert torch.equal(arguments["qkv"], before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_rotation_is_that_of_diffusers(dtype: torch.dtype) -> None:
    """Bit for bit, as its FLUX calls it."""
    arguments = examples.qk_norm_rope(9, 3, 32, dtype, parts="rope")
    actual = qk_norm_rope(**arguments)
    for part in (0, 1):
        x = arguments["qkv"][:, part].transpose(0, 1)[None]  # (1, heads, T, head width)
        theirs = apply_rotary_emb(x, (arguments["cos"], arguments["sin"]), use_real_unbind_dim=-1)
        assert torch.equal(actual[:, part], theirs[0].transpose(0, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_is_that_of_diffusers(dtype: torch.dtype) -> None:
    """Bit for bit."""
    arguments = examples.qk_norm_rope(9, 3, 32, dtype, parts="q k")
    actual = qk_norm_rope(**arguments)
    for part, name in enumerate(("q_weight", "k_weight")):
        norm = RMSNorm(32, eps=arguments["eps"])
        norm.weight.data = arguments[name]
        assert torch.equal(actual[:, part], norm(arguments["qkv"][:, part]).detach())


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_a_rotation_keeps_the_length_of_every_pair(size: tuple[int, int, int]) -> None:
    """It turns them and nothing else."""
    arguments = examples.qk_norm_rope(*size, torch.float32, parts="rope")
    before, after = (x.unflatten(-1, (-1, 2)).norm(dim=-1) for x in (arguments["qkv"], qk_norm_rope(**arguments)))
    torch.testing.assert_close(after, before)


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_no_angle_is_no_rotation(size: tuple[int, int, int]) -> None:
    """At cos 1 and sin 0 every bit stays."""
    arguments = examples.qk_norm_rope(*size, torch.float32, parts="rope")
    still = arguments | {"cos": torch.ones_like(arguments["cos"]), "sin": torch.zeros_like(arguments["sin"])}
    assert torch.equal(qk_norm_rope(**still), arguments["qkv"])


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_the_norm_forgets_the_length_of_a_head(size: tuple[int, int, int]) -> None:
    """Doubling q changes nothing, for a power of two scales without rounding."""
    arguments = examples.qk_norm_rope(*size, torch.float32, parts="q k") | {"eps": 0.0}
    assert torch.equal(
        qk_norm_rope(**arguments)[:, :2], qk_norm_rope(**arguments | {"qkv": arguments["qkv"] * 2})[:, :2]
    )


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_a_token_alone_gets_the_bits_it_gets_in_a_batch(size: tuple[int, int, int]) -> None:
    """An image must not depend on what else is computed beside it."""
    arguments = examples.qk_norm_rope(*size, torch.float32)
    together = qk_norm_rope(**arguments)
    for token in range(size[0]):
        alone = {name: arguments[name][token : token + 1] for name in ("qkv", "cos", "sin")}
        assert torch.equal(qk_norm_rope(**arguments | alone)[0], together[token])


def test_nothing_asked_is_nothing_done() -> None:
    """Without weights and angles the argument itself comes back."""
    arguments = examples.qk_norm_rope(3, 2, 8, torch.float32, parts="")
    assert qk_norm_rope(**arguments) is arguments["qkv"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qkv": torch.ones(6, 2, 4, 8)}, r"qkv has shape \[6, 2, 4, 8\], must be \[T, 3, heads, head width\]"),
        ({"qkv": torch.ones(6, 3, 32)}, r"qkv has shape \[6, 3, 32\]"),
        ({"qkv": torch.ones(6, 3, 4, 8, dtype=torch.int32)}, "qkv is torch.int32, must be one of"),
        ({"q_weight": torch.ones(7)}, r"q_weight has shape \[7\], must be \[8\]"),
        ({"k_weight": torch.ones(8).half()}, r"k_weight of shape \[8\] is torch.float16, must be torch.float32"),
        ({"cos": None}, "cos is missing"),
        ({"sin": None}, "sin is missing"),
        ({"cos": torch.ones(5, 8)}, r"cos has shape \[5, 8\], must be \[6, 8\]"),
        ({"sin": torch.ones(6, 8).half()}, r"sin of shape \[6, 8\] is torch.float16, must be torch.float32"),
        ({"qkv": torch.ones(6, 3, 4, 7), "q_weight": None, "k_weight": None}, "must be even"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(changed: dict[str, torch.Tensor | None], message: str) -> None:
    """With its shape and the one it should have."""
    with pytest.raises(ValueError, match=message):
        qk_norm_rope(**examples.qk_norm_rope(6, 4, 8, torch.float32) | changed)
