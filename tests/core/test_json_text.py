"""Bounds of JSON texts: what is accepted reads as it is, what is over a limit is refused, in linear time."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lego_serve.core.json_text import LIMITS, SHORT_STRING_BYTES, JsonLimitExceeded, JsonLimits, outline, repeated_field

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)
MEGABYTE = 1_000_000
HOSTILE = {
    "distinct names and one twice": b'{"a":{' + b",".join(b'"k%d":1' % (i // 2 * 2) for i in range(400_000)) + b"}}",
    "empty lists": b'{"style":[' + b"[]," * 3_000_000 + b"[]]}",
    "numbers": b'{"style":[' + b"0," * 5_000_000 + b"0]}",
    "one long number": b'{"n":' + b"1" * 5_000_000 + b"}",
    "brackets": b"[" * 5_000_000,
    "spaces": b" " * 5_000_000 + b"{}",
    "names": b'{"' + b'":1,"'.join([b"a"] * 500_000) + b'":1}',
    "a string of escaped quotes": b'{"a":"' + b'\\"' * 5_000_000 + b'"}',
    "a string of backslashes": b'{"a":"' + b"\\\\" * 5_000_000 + b'"}',
    "a string that is not closed": b'{"a":"' + b'\\"' * 5_000_000,
    "a long name": b'{"' + b"a" * 9_000_000 + b'":1}',
    "a string of unicode escapes": b'{"a":"' + b"\\u0041" * 3_000_000 + b'"}',
    "base64 with its slashes escaped": b'{"a":"' + b"abcdefgh\\/" * 4_000_000 + b'"}',
}


class Repeated(Exception):
    """An object has a field twice."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The plainest check there is for fields that are given twice."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise Repeated
    return dict(pairs)


def emptied(value: Any, is_ascii: bool) -> Any:
    """A value with the strings empty that are long as they are written."""
    if isinstance(value, str):
        return "" if len(json.dumps(value, ensure_ascii=is_ascii).encode()) > SHORT_STRING_BYTES + 1 else value
    if isinstance(value, list):
        return [emptied(part, is_ascii) for part in value]
    return {name: emptied(part, is_ascii) for name, part in value.items()} if isinstance(value, dict) else value


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
@example(["\\", '"', '\\"', "\\\\", "a" * 4095, "b" * 4094, "c" * 9000, '\\"' * 5000], False, None)
def test_what_is_accepted_reads_as_it_is(value, is_ascii, indent) -> None:
    """The outline is the same JSON, long strings apart, whatever its strings hold and however it is written."""
    raw = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    assert json.loads(outline(raw)) == json.loads(outline(bytearray(raw))) == emptied(value, is_ascii)


@given(st.text(alphabet='{}[]",:\\ab1 \n', max_size=60))
def test_what_is_no_json_has_no_outline_that_is(text) -> None:
    """Emptying strings makes no JSON of what is none, and the other way about; a field given twice is found in both."""
    raw = text.encode()
    try:
        expected: object = json.loads(raw, object_pairs_hook=once)
    except Repeated:
        assert repeated_field(outline(raw)) is not None
        return
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            repeated_field(outline(raw))
        return
    assert repeated_field(outline(raw)) is None
    assert json.loads(outline(raw)) == expected


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"a": 1, "a": 2}', ["a"]),
        (b'{"a": 1, "\\u0061": 2}', ["a"]),
        (b'{"b": [0, {"c": {"d": 1, "e": 2, "d": 3}}]}', ["b", 1, "c", "d"]),
        (b'{"a": {"b": 1}, "c": {"b": 1}}', None),
        (b'{"a": "b", "b": "a"}', None),
        (b'{"%b": 1, "%b": 2}' % (b"x" * 9000, b"x" * 9000), ["x" * 9000]),
        (b'{"%b": 1, "%b": 2}' % (b"x" * 9000, b"y" * 9000), None),
    ],
)
def test_a_field_given_twice_is_found_where_it_is(raw, path) -> None:
    """At any depth, however its name is written or long; the same name in two objects is no repetition."""
    found = repeated_field(outline(raw))
    assert (found if found is None else list(found)) == path


@pytest.mark.parametrize(
    ("raw", "limit", "too_large"),
    [
        (b"[" * 5 + b"]" * 5, "4 levels", False),
        (b"[0,0,0,0,0,0,0,0]", "8 values", False),
        (b"[[],[],[],[],[],[],[],[]]", "8 values", False),
        (b'["","","","","","","",""]', "8 values", False),
        (b'[{"a":1,"b":2},{"a":1,"b":2}]', "3 fields", False),
        (b"1" * 101, "100 bytes outside of strings", True),
        (b" " * 101, "100 bytes outside of strings", True),
        (b'""' * 100, "values", False),
        (b'{"%b":1}' % (b"n" * 51), "50 bytes in the names of fields", True),
        (b'{"%b":1,"%b":{"%b":1}}' % (b"k" * 20, b"l" * 20, b"m" * 11), "50 bytes in the names of fields", True),
        (b'{"%b"%b:1}' % (b"n" * 51, b" " * 90), "50 bytes in the names of fields", True),
        (b'["' + b"\\/" * 41 + b'"]', "40 backslashes", True),
        (b'["' + b"\\u0041" * 21 + b'"]', "20 escapes that begin with ", True),
        (b'["' + b"x" * (65_533) + b"\\u0041" * 21 + b'"]', "20 escapes that begin with ", True),
    ],
)
def test_what_is_over_a_limit_is_refused_with_its_number(raw, limit, too_large) -> None:
    """Depth, values, fields, names, escapes, and bytes outside of strings; long strings are no matter."""
    limits = JsonLimits(4, 8, 3, other_bytes=100, name_bytes=50, backslashes=40, unicode_escapes=20)
    with pytest.raises(JsonLimitExceeded, match=limit) as raised:
        outline(raw, limits)
    assert raised.value.too_large is too_large
    assert outline(b'{"a":"' + b"x" * 100_000 + b'"}', limits) == b'{"a":""}'
    assert outline(b"[[[[0]]]]", limits) == b"[[[[0]]]]"
    at_most = [b'["' + b"\\/" * 40 + b'"]', b'["' + b"\\u0041" * 20 + b'"]', b'{"%b":"%b"}' % (b"n" * 50, b"x" * 99)]
    assert [outline(text, limits) for text in at_most] == at_most


def test_long_prompts_and_large_images_are_within_the_limits_however_they_are_escaped() -> None:
    """Two prompts of 32,000 characters beyond the basic plane, and 48 MB of base64 with each slash escaped."""
    prompts = {"prompt": "\U0001f600" * 32_000, "negative_prompt": "\U0001f600" * 32_000}
    assert json.loads(outline(json.dumps(prompts).encode())) == {"prompt": "", "negative_prompt": ""}
    assert outline(b'{"image":"' + (b"abcdefgh" * 8)[:63] * 760_000 + b"\\/" * 760_000 + b'"}') == b'{"image":""}'


@pytest.mark.parametrize("kind", HOSTILE)
def test_any_text_is_bounded_in_time_linear_in_its_length(kind) -> None:
    """At most 20 ms of the processor a megabyte, of this thread alone, and at least 50 ms for noise."""
    raw = HOSTILE[kind]
    started = time.thread_time()
    with contextlib.suppress(JsonLimitExceeded, ValueError):
        repeated_field(outline(raw))
    assert time.thread_time() - started < 0.05 + 0.02 * len(raw) / MEGABYTE


def test_a_prompt_as_long_as_it_may_be_is_within_the_limits() -> None:
    """Every field of a request with every list full is far below them."""
    entries = [{"name": "a" * 64, "image": "b" * 100_000, "weight": 1.0, "start": 0.0, "end": 1.0}] * 8
    body = {"prompt": '"' * 32_000, "controlnet": entries, "lora": entries} | {f"f{i}": i for i in range(100)}
    assert outline(json.dumps(body, indent=4).encode(), LIMITS)
