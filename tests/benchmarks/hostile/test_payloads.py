import io
import json

import pytest
from PIL import Image

from benchmarks.hostile import payloads
from benchmarks.hostile.payloads import MB


def test_many_names_are_different_but_for_the_last() -> None:
    """Reading the body as pairs gives each name once, and one of them twice."""
    names: list[str] = []
    json.loads(payloads.many_names(1000), object_pairs_hook=lambda pairs: names.extend(name for name, _ in pairs))
    assert len(names) == 1001 + len(["prompt", "style"])
    assert len(set(names)) == 1000 + 2


@pytest.mark.parametrize("item", ["[]", "{}", "0", '{"name":"a","scale":1}'])
def test_long_lists_have_their_size(item: str) -> None:
    """A list of items is JSON, of as many bytes as asked for but for one item and the fields around."""
    body = payloads.long_list("lora", item, 10_000)
    assert json.loads(body)["lora"][-1] == json.loads(item)
    assert abs(len(body) - 10_000) < 60


def test_lists_in_each_other_are_as_deep_as_asked_for() -> None:
    """The value ends in an empty list."""
    value = json.loads(payloads.nested(50))["style"]
    for _ in range(49):
        (value,) = value
    assert value == []


@pytest.mark.parametrize("make", [payloads.large_header, payloads.small_headers, payloads.large_target])
def test_large_heads_are_heads_of_their_size(make) -> None:  # type: ignore[no-untyped-def]
    """They come in small pieces, are a little larger than asked for, and end as a head does."""
    pieces = list(make(MB))
    whole = b"".join(pieces)
    assert max(map(len, pieces)) <= payloads.PIECE
    assert 0.9 * MB < len(whole) < 1.1 * MB
    assert whole.startswith(b"GET /")
    assert whole.endswith(b"\r\n\r\n")
    assert whole.count(b"\r\n\r\n") == 1


def test_large_bodies_say_their_size() -> None:
    """Content-Length is what follows the head."""
    head, _, body = b"".join(payloads.large_body("/nowhere", MB)).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("size", [(300, 1), (1, 300), (200, 700)])
def test_grey_images_can_be_read(size: tuple[int, int]) -> None:
    """A PNG of the size and of one colour, also where it is made of several pieces."""
    with Image.open(io.BytesIO(payloads.grey_png(*size))) as image:
        image.load()
        assert image.size == size
        assert image.getextrema() == (0, 0)


def test_a_thin_image_is_a_small_file() -> None:
    """A million pixels in one column are a few kilobytes."""
    assert len(payloads.grey_png(1, MB)) < 4000


def test_slow_clients_never_finish_a_request() -> None:
    """What each of them begins with is no whole request: the head has no end, or a body is due."""
    kinds = payloads.dripping()
    assert kinds.pop("silent") == (b"", b"")
    assert b"\r\n\r\n" not in kinds.pop("head")[0]
    assert all(b"\r\n\r\n" in begin and piece for begin, piece in kinds.values())
