"""The roles of layers, of both families, and kinds that are lent."""

import pytest
import torch

from lego_serve.models.ragged.layers import Linear, Part
from lego_serve.models.ragged.linear_kinds.roles import role_of, using_kinds
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, Sparse24Rows


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("transformer.transformer_blocks.0.attn.to_q", "qkv"),
        ("transformer.transformer_blocks.0.attn2.to_q", "qkv"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", "qkv"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "qkv"),
        ("transformer.transformer_blocks.0.attn.to_out.0", "out"),
        ("transformer.transformer_blocks.0.attn.to_add_out", "out"),
        ("transformer.transformer_blocks.0.ff.net.0.proj", "first"),
        ("transformer.transformer_blocks.0.ff_context.net.2", "second"),
        ("transformer.single_transformer_blocks.0.proj_out", "second"),
    ],
)
def test_a_layer_has_the_role_of_its_first_part(path: str, role: str) -> None:
    """In joint blocks and single ones, of images and of texts."""
    assert role_of(path) == role


def test_a_layer_without_a_role_is_named() -> None:
    """With the roles that there are."""
    with pytest.raises(ValueError, match=r"transformer\.x has none of the roles qkv, out, first, second"):
        role_of("transformer.x")


def test_kinds_are_lent_and_given_back() -> None:
    """Also where the work fails; a layer that had a kind has it again."""
    weight = torch.randn(4, 8)
    layers = {name: Linear(weight, None, (Part(name, 0, 4),)) for name in "ab"}
    kind = Sparse24Rows.of(weight, Residual(torch.zeros(8, 1), torch.zeros(1, 4)), layers["a"].ops)
    layers["b"].kind = kind
    other = Sparse24Rows.of(weight, Residual(torch.ones(8, 1), torch.ones(1, 4)), layers["a"].ops)
    with using_kinds(layers, {"a": other, "b": other}):
        assert layers["a"].kind is layers["b"].kind is other
    assert layers["b"].kind is kind
    with pytest.raises(ZeroDivisionError), using_kinds(layers, {"a": other, "b": other}):
        raise ZeroDivisionError
    assert layers["a"].kind is None
    assert layers["b"].kind is kind
