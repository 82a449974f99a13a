"""The book of requests that end replicas: what is one request, who is to blame, and for how long that is known."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.jobs.poison import KEPT_S, PoisonBook, fingerprint

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
INPUTS = st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=4)
NODES, REQUESTS = st.sampled_from(["vae", "backbone"]), st.sampled_from("abcd")


@given(INPUTS, st.integers(), st.integers())
def test_the_same_request_with_another_seed_is_the_same(inputs: dict[str, object], one: int, other: int) -> None:
    """In whichever order its values come; the workflow counts."""
    first = fingerprint("w", inputs | {"seed": one})
    assert first == fingerprint("w", dict(reversed((inputs | {"seed": other}).items())))
    assert first != fingerprint("v", inputs | {"seed": one})


def spelled(value: object) -> str:
    """A value's spelling, whatever the order of its names: a number is no text, and a flag no number."""
    if isinstance(value, dict):
        return str(sorted((repr(name), spelled(each)) for name, each in value.items()))
    return str([spelled(each) for each in value]) if isinstance(value, list) else repr(value)


@given(INPUTS, INPUTS)
def test_what_differs_in_a_value_is_another_request(one: dict[str, object], other: dict[str, object]) -> None:
    """And nothing else is."""
    one.pop("seed", None), other.pop("seed", None)
    assert (fingerprint("w", one) == fingerprint("w", other)) == (spelled(one) == spelled(other))


@dataclass(frozen=True)
class Edit:
    """Stands for what a gateway decodes."""

    pixels: np.ndarray
    name: str = ""


def test_images_count_by_their_numbers() -> None:
    """Whatever their order in memory, and not by their place there; shape and type count."""
    pixels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mark = fingerprint("w", {"edit": Edit(pixels)})
    assert mark == fingerprint("w", {"edit": Edit(np.asfortranarray(pixels).copy(order="F"))})
    for changed in (pixels + 1, pixels.reshape(3, 2, 4), pixels.view(np.int32)):
        assert fingerprint("w", {"edit": Edit(changed)}) != mark
    assert fingerprint("w", {"edit": Edit(pixels, "x")}) != mark
    assert fingerprint("w", {"edit": pixels.tobytes()}) != fingerprint("w", {"edit": pixels})


def test_a_request_is_refused_for_an_hour() -> None:
    """And is a request like any other afterwards."""
    book = PoisonBook()
    assert book.left_s("a", 0.0) == 0.0
    assert book.blame("vae", "a", 10.0)
    assert book.left_s("a", 11.0) == KEPT_S - 1.0
    assert book.left_s("b", 11.0) == 0.0
    assert book.left_s("a", 10.0 + KEPT_S) == 0.0
    assert len(book) == 0


def test_two_in_a_row_are_the_nodes_failure() -> None:
    """Neither is refused, until the node has answered somebody; the same request again is no second one."""
    book = PoisonBook()
    assert book.blame("vae", "a", 0.0)
    assert book.blame("vae", "a", 1.0)
    assert not book.blame("vae", "b", 2.0)
    assert (book.left_s("a", 3.0), book.left_s("b", 3.0)) == (0.0, 0.0)
    assert not book.blame("vae", "b", 4.0)
    assert not book.blame("vae", "c", 4.0)
    book.answered("vae")
    assert book.blame("vae", "c", 5.0)
    book.answered("vae")
    assert book.blame("vae", "d", 6.0)
    assert book.left_s("c", 7.0) > 0


@given(st.lists(st.tuples(NODES, REQUESTS | st.none()), max_size=40))
def test_a_node_that_answers_nobody_has_nobody_refused_but_one(events: list[tuple[str, str | None]]) -> None:
    """Of all who are blamed since a node's last answer at most one stays refused, and only if it was the only one."""
    book, since = PoisonBook(), dict[str, list[str]]()
    proven = set[str]()  # blamed where the node has answered others since
    for now, (node, request) in enumerate(events):
        blamed = since.setdefault(node, [])
        if request is None:
            proven |= {each for each in blamed if len(set(blamed)) == 1}
            blamed.clear()
            book.answered(node)
        else:
            blamed.append(request)
            assert book.blame(node, request, now) == (len(set(blamed)) == 1)
        only = {each for some in since.values() if len(set(some)) == 1 for each in some}
        assert {each for each in "abcd" if book.left_s(each, now)} <= proven | only


@given(st.lists(REQUESTS, max_size=60))
def test_the_book_has_an_end(requests: list[str]) -> None:
    """Those that were blamed, or came again, last."""
    book, order = PoisonBook(kept=2), list[str]()
    for now, request in enumerate(requests):
        if not book.left_s(request, now):
            book.blame("vae", request, now)
            book.answered("vae")
        order = [*(each for each in order if each != request), request][-2:]
        assert len(book) == len(order)
        assert all(PoisonBook.left_s(book, each, now) for each in order)
