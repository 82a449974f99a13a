"""The store of templates' entries: pins and what is forgotten, whatever comes in whichever order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.editing.templates import PINNED_RATIO, pin_of
from lego_serve.engine.template_store import MAX_RELEASED_PINS, TemplateStore
from lego_serve.models.ragged.activations import Activations

ROWS = 8
EACH = 2 * ROWS * 4 * 2  # bytes of an entry of one attention: keys and values, one head of four numbers in bf16
BUDGET = 6 * EACH


def used(store: TemplateStore, image: str, level: int, pin: str = "") -> None:
    """One step of an edit that reads an entry."""
    key = f"{image}.z/{level}"
    entry, is_new = store.acquire(key, EACH, 1.0)
    if is_new:
        entry.put("a", torch.zeros(ROWS, 2, 1, 4), torch.zeros(0, 2, 1, 4))
        store.commit(key, entry)
    if pin:
        store.pin(key, pin)


STEPS = st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from(["", "p", "q"]))
ORDERS = st.lists(st.one_of(STEPS, st.tuples(st.sampled_from("abcd"), st.none(), st.sampled_from(["p", "q"]))))


@given(ORDERS)
def test_pinned_entries_stay_within_their_share_until_they_are_forgotten(orders) -> None:
    """The account is right throughout, pins never take more than their part, and nothing else lets go of them."""
    store = TemplateStore(BUDGET, lambda: 0.0)
    held: dict[str, set[str]] = {}
    released: set[str] = set()
    for image, level, pin in orders:
        if level is None:
            store.forget(image, pin)
            released.add(pin)
            for key in [key for key in held if key.startswith(f"{image}.")]:
                held[key].discard(pin)
                if not held[key]:
                    del held[key]
            assert store.bytes_of(image) == EACH * sum(key.startswith(f"{image}.") for key in held)
        else:
            before = store.pinned_bytes
            used(store, image, level, pin)
            key = f"{image}.z/{level}"
            if store.pinned_bytes > before:
                assert pin not in released
                held[key] = {pin}
            elif key in held and pin and pin not in released:
                held[key].add(pin)
        store._ledger.check()
        assert set(held) <= set(store)
        assert store.pinned_bytes == len(held) * EACH <= PINNED_RATIO * BUDGET
        assert store.used_bytes == len(set(store)) * EACH <= BUDGET


def test_a_pin_is_taken_as_far_as_there_is_room() -> None:
    """Half of the budget; what is beyond is kept as anything else, and goes when others need the room."""
    store = TemplateStore(BUDGET, lambda: 0.0)
    for level in range(4):
        used(store, "a", level, "p")
    assert (store.pinned_bytes, store.bytes_of("a")) == (3 * EACH, 4 * EACH)
    for _ in range(3):
        for level in range(3):
            used(store, "b", level)
    assert (store.bytes_of("a"), store.bytes_of("b")) == (3 * EACH, 3 * EACH)


def test_what_two_pins_hold_stays_until_both_are_released() -> None:
    """One image registered twice."""
    store = TemplateStore(BUDGET, lambda: 0.0)
    used(store, "a", 0, "p")
    used(store, "a", 0, "q")
    used(store, "a", 1)
    store.forget("a", "p")
    assert (store.bytes_of("a"), store.pinned_bytes) == (EACH, EACH)
    store.forget("a", "q")
    assert (store.bytes_of("a"), store.pinned_bytes) == (0, 0)


def test_a_failed_pass_leaves_no_pin() -> None:
    """And what is pinned without being there is nothing."""
    store = TemplateStore(BUDGET, lambda: 0.0)
    entry, is_new = store.acquire("a.z/0", EACH, 1.0)
    assert (is_new, isinstance(entry, Activations)) == (True, True)
    store.abort("a.z/0")
    store.pin("a.z/0", "p")
    assert (store.pinned_bytes, store.used_bytes) == (0, 0)


def test_released_pins_are_remembered_within_bounds() -> None:
    """For edits on their way, not for ever."""
    store = TemplateStore(BUDGET, lambda: 0.0)
    for number in range(MAX_RELEASED_PINS + 1):
        store.forget("a", f"pin {number}")
    used(store, "a", 0, f"pin {MAX_RELEASED_PINS}")
    assert store.pinned_bytes == 0
    used(store, "a", 0, "pin 0")
    assert store.pinned_bytes == EACH


def test_no_tenant_pins_more_than_its_part() -> None:
    """Whatever its edits bring; the rest of what can be pinned is another's, and comes back with what is forgotten."""
    store = TemplateStore(BUDGET, lambda: 0.0, tenant_pinned_bytes=2 * EACH)
    mine, more, theirs = pin_of("anna", "p"), pin_of("anna", "q"), pin_of("otto", "p")
    for level in range(3):
        used(store, "a", level, mine)
    used(store, "b", 0, more)
    assert (store.pinned_bytes, store.entries) == (2 * EACH, 4)
    used(store, "c", 0, theirs)
    used(store, "c", 1, theirs)
    assert store.pinned_bytes == 3 * EACH, "the half of all that can be pinned"
    store.forget("a", mine)
    used(store, "b", 0, more)
    used(store, "b", 1, more)
    used(store, "b", 2, more)
    assert (store.pinned_bytes, store.bytes_of("a")) == (3 * EACH, 0)
    for image, pin in (("b", more), ("c", theirs)):
        store.forget(image, pin)
    assert (store.pinned_bytes, store._pinned_bytes) == (0, {})
