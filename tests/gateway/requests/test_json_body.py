"""JSON bodies: what is accepted is what any reader of JSON reads, in time linear in its length."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lego_serve.errors import RequestError
from lego_serve.gateway.requests.json_body import parse


class Anything(BaseModel):
    """A body of one field."""

    value: Any = None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
COSTLY = {
    "a number of a megabyte": b'{"value":' + b"1" * 1_000_000 + b"}",
    "a fraction of a megabyte": b'{"value":0.' + b"1" * 1_000_000 + b"}",
    "an exponent of a megabyte": b'{"value":1e' + b"1" * 1_000_000 + b"}",
    "as many values as may be": b'{"value":[' + b"{}," * 4000 + b"{}]}",
    "long names": b'{"value":{' + b",".join(b'"%d%b":1' % (i, b"a" * 4000) for i in range(1000)) + b"}}",
    "a string of escapes": b'{"value":"' + b"\\u0041" * 2_000_000 + b'"}',
}


@given(VALUES, st.booleans())
def test_a_body_is_what_any_reader_reads(value, is_ascii) -> None:
    """Numbers and strings of every kind, however they are written."""
    raw = json.dumps({"value": value}, ensure_ascii=is_ascii).encode()
    assert parse(raw, Anything).value == json.loads(raw)["value"] == parse(bytearray(raw), Anything).value


@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\aevlu1 \n', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(raw) -> None:
    """Nothing else is raised, and nothing is read that the plainest reader refuses."""
    try:
        body = parse(raw, Anything)
    except RequestError:
        return
    assert body.value == json.loads(raw).get("value")


@pytest.mark.parametrize("kind", COSTLY)
def test_what_is_within_the_limits_costs_little(kind) -> None:
    """At most 20 ms of the processor a megabyte, and 50 ms whatever its length."""
    raw, took = COSTLY[kind], list[float]()
    most = 0.05 + 0.02 * len(raw) / 1e6
    while len(took) < 5 and min(took, default=most) >= most:  # of several tries: a machine is not always as quick
        started = time.thread_time()
        with contextlib.suppress(RequestError):
            parse(raw, Anything)
        took.append(time.thread_time() - started)
    assert min(took) < most
