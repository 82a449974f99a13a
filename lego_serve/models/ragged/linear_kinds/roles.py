"""Says what a layer does in its block, and lets layers multiply in another way for a while."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lego_serve.models.ragged.layers import Linear, LinearKind

ROLES = {  # by the end of the path of a layer's first part
    "qkv": r"to_q|add_q_proj",
    "out": r"to_out\.0|to_add_out",
    "first": r"net\.0\.proj|proj_mlp",
    "second": r"net\.2|proj_out",
}


def role_of(path: str) -> str:
    """Return what a layer of a block is: ``qkv``, ``out``, or the ``first`` or ``second`` of the MLP.

    A layer that computes several of the model's side by side has the role of the first.  Raises ValueError for another.
    """
    for role, end in ROLES.items():
        if re.search(rf"\.({end})$", path):
            return role
    raise ValueError(f"{path} has none of the roles {', '.join(ROLES)}")


@contextmanager
def using_kinds(layers: Mapping[str, Linear], kinds: Mapping[str, LinearKind]) -> Iterator[None]:
    """Have layers, by name, multiply in these ways until the block ends; then as before."""
    before = {name: layers[name].kind for name in kinds}
    for name, kind in kinds.items():
        layers[name].kind = kind
    try:
        yield
    finally:
        for name, kind_before in before.items():
            layers[name].kind = kind_before
