"""The inputs of a job as stored: images apart, and all of it back as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.inputs import put_together, take_apart

NAMES = st.sampled_from(["$bytes", "$literal", "image", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_inputs_come_back_whole(inputs: dict[str, object]) -> None:
    """Also those that look like the marks of what is stored apart."""
    stored = take_apart(inputs)
    values = json.loads(json.dumps(stored.values))
    assert put_together(values, stored.contents.__getitem__) == inputs


def test_the_same_image_is_kept_once() -> None:
    """Images are known by what they hold."""
    stored = take_apart({"image": b"pixels", "masks": (b"pixels", b"mask")})
    assert sorted(stored.contents.values()) == [b"mask", b"pixels"]
    assert "pixels" not in json.dumps(stored.values)


def test_a_damaged_image_is_refused() -> None:
    """A job would otherwise go on with another image than the one it was given."""
    stored = take_apart({"image": b"image"})
    with pytest.raises(ValueError, match="is damaged"):
        put_together(stored.values, lambda _digest: b"another")


def test_what_cannot_be_stored_is_named() -> None:
    """The message says where it lies."""
    with pytest.raises(TypeError, match=r"input lora\.file is a object"):
        take_apart({"lora": {"file": object()}})
