"""Values of messages: their arrays and references, wherever they lie."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.values import Ref, bytes_of, map_leaves, refs_of


@dataclass(frozen=True, slots=True)
class Box:
    """A message of some depth."""

    first: object
    second: object = None


leaves = st.one_of(
    st.integers(), st.text(max_size=3), st.builds(Ref, st.text(max_size=3), st.integers(0, 9)), st.none()
)
messages = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Box, inner, inner),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(messages)
def test_a_message_of_which_nothing_changes_is_itself(message: object) -> None:
    """No copy is made."""
    assert map_leaves(message, lambda leaf: leaf) is message


@given(messages)
def test_every_reference_is_found_and_can_be_replaced(message: object) -> None:
    """Afterwards there is none, and everything else is as it was."""
    count = len(list(refs_of(message)))
    replaced: list[Ref] = []

    def change(leaf: object) -> object:
        if isinstance(leaf, Ref):
            replaced.append(leaf)
            return "an array"
        return leaf

    changed = map_leaves(message, change)
    assert len(replaced) == count
    assert list(refs_of(changed)) == []
    assert (changed == message) == (count == 0)


def test_bytes_are_those_of_arrays_alone() -> None:
    """References weigh nothing here: their arrays are elsewhere."""
    message = Box(np.zeros(10, np.float32), (Ref("a", 1000), {"deep": np.zeros(3, np.uint8)}))
    assert bytes_of(message) == 43


def test_references_are_equal_where_they_name_the_same_array() -> None:
    """Whatever the handle."""
    assert Ref("a", 1, object()) == Ref("a", 1, object())
