"""Base64 as tools write it."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.gateway.media.base64_text import PIECE, decode_base64

HEADS = ("", "data:image/png;base64,", "data:;base64,", "DATA:X/Y;charset=utf-8;BASE64,", "data:a/b;name=c.png;base64,")


@given(st.binary(max_size=300), st.sampled_from(HEADS), st.integers(1, 90), st.sampled_from(["\n", "\r\n", " "]))
def test_every_way_of_writing_bytes_gives_the_bytes(data: bytes, head: str, width: int, end: str) -> None:
    """Wrapped or not, with any head, of both alphabets, with padding and without."""
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        for written in (text, text.rstrip("=")):
            wrapped = end.join(written[at : at + width] for at in range(0, len(written), width)) + end
            assert decode_base64(head + wrapped) == data


@pytest.mark.parametrize("text", ["a", "YWI=YWI=", "YWI==", "YQ=", "YQ===", "=", "Y*==", "é", "data:image/png,YWI="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    """Nothing is guessed: not what lacks a character, nor what goes on after its end."""
    with pytest.raises(ValueError, match=r"padding|data|codec|Incorrect|base64"):
        decode_base64(text)


@pytest.mark.parametrize("extra", range(5))
def test_pieces_join_wherever_they_are_cut(extra: int) -> None:
    """Text longer than a piece, that ends and wraps anywhere."""
    data = bytes(range(256)) * (PIECE // 256) + b"x" * extra
    text = base64.b64encode(data).decode()
    assert decode_base64(text[:7] + "\n" * extra + text[7:]) == data


def test_hostile_text_takes_linear_time() -> None:
    """A head without an end, blanks, and padding, of 8 MB each."""
    started = time.process_time()
    for text in ("data:" + ";" * 2**23, " " * 2**23, "=" * 2**23):
        try:
            decode_base64(text)
        except ValueError:
            continue
    assert time.process_time() - started < 2
