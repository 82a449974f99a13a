"""Whose messages are sent at the same time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.webhook_turns import WebhookTurns

KEYS = [(tenant, receiver) for tenant in ("a", "b", "c") for receiver in ("x", "y", "z")]


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.booleans(), st.floats(0, 20)), max_size=80))
def test_no_bound_is_passed_and_nothing_is_kept(moves: list[tuple[tuple[str, str], bool, float]]) -> None:
    """Whatever begins and ends in any order: each bound holds, and at the end no receiver is remembered."""
    turns = WebhookTurns(total=6, per_tenant=4, per_receiver=2)
    sending: Counter[tuple[str, str]] = Counter()
    latest = 0.0
    for key, begins, took_s in moves:
        tenant = sum(count for (name, _), count in sending.items() if name == key[0])
        has_place = sending[key] < 2 and tenant < 4 and sending.total() < 6
        if begins:
            assert turns.begin(key) == has_place
            if has_place:
                sending[key] += 1
            else:
                latest = max(latest, turns.put_off(key, now=0.0))
        elif sending[key]:
            turns.end(key, took_s, now=0.0)
            sending[key] -= 1
        assert turns.free == 6 - sending.total()
    turns.begin(KEYS[0])
    sending[KEYS[0]] += turns.sending > sending.total()
    for key in list(sending.elements()):
        turns.end(key, 0.1, now=latest)
    assert (turns.sending, turns._tenants, turns._receivers) == (0, {}, {})


def test_what_finds_no_place_comes_back_at_its_receivers_pace() -> None:
    """One after the other, the slower the receiver the later."""
    waits = []
    for took_s in (0.05, 15.0):
        turns = WebhookTurns(per_receiver=2)
        for _ in range(20):
            turns.begin(("a", "x"))
            turns.begin(("a", "x"))
            turns.end(("a", "x"), took_s, now=0.0)
            turns.end(("a", "x"), took_s, now=0.0) if turns.sending > 1 else None
        first, second = turns.put_off(("a", "x"), 100.0), turns.put_off(("a", "x"), 100.0)
        assert 100.0 < first < second
        waits.append(second - first)
    assert waits[0] < 0.1
    assert 5.0 < waits[1] <= 7.5


def test_others_are_not_put_off() -> None:
    """A receiver that waits is one tenant's."""
    turns = WebhookTurns()
    for _ in range(1000):
        turns.put_off(("a", "x"), 0.0)
    assert turns.put_off(("b", "x"), 0.0) < 1.0
    assert turns.put_off(("a", "y"), 0.0) < 1.0
