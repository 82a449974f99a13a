"""ByteLru: the values used last are kept, within so many bytes of arrays and keys."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.serving.caches.byte_lru import ByteLru


def array(size: int) -> np.ndarray:
    """An array of so many bytes."""
    return np.zeros(size, np.uint8)


def test_a_kept_value_is_the_one_that_was_put() -> None:
    """Its key and its array count; what was never put is None."""
    lru: ByteLru[np.ndarray] = ByteLru(100)
    value = array(10)
    lru.put("key", value)
    assert lru.get("key") is value
    assert lru.get("other") is None
    assert lru.bytes == 3 + 10


def test_of_a_view_a_copy_is_kept() -> None:
    """The memory behind each kept array is its own: a row does not keep the batch that it is of."""
    lru: ByteLru[tuple[np.ndarray, ...]] = ByteLru(100)
    batch = np.arange(80, dtype=np.uint8).reshape(8, 10)
    lru.put("a", (batch[3], batch[4].copy()))
    kept = lru.get("a")
    assert kept is not None
    assert all(each.base is None for each in kept)
    assert kept[0].tolist() == batch[3].tolist()
    assert lru.bytes == 1 + 20


def test_the_least_recently_used_value_makes_way() -> None:
    """Reading a value is a use of it."""
    lru: ByteLru[np.ndarray] = ByteLru(23)
    lru.put("a", array(10))
    lru.put("b", array(10))
    lru.get("a")
    lru.put("c", array(10))
    assert [lru.get(key) is not None for key in "abc"] == [True, False, True]
    assert lru.bytes == 22


def test_a_value_larger_than_the_bound_is_not_kept() -> None:
    """The others stay; an older value of the same key goes, for it is no longer the key's."""
    lru: ByteLru[np.ndarray] = ByteLru(30)
    lru.put("a", array(10))
    lru.put("b", array(10))
    lru.put("a", array(30))
    assert lru.get("a") is None
    assert lru.get("b") is not None
    assert lru.bytes == 11


def test_a_dropped_value_frees_its_bytes() -> None:
    """Dropping what is not kept changes nothing."""
    lru: ByteLru[tuple[np.ndarray, ...]] = ByteLru(100)
    lru.put("a", (array(10), array(5)))
    lru.drop("a")
    lru.drop("a")
    assert lru.get("a") is None
    assert lru.bytes == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40)), max_size=40))
def test_the_bytes_kept_are_within_the_bound_and_are_those_of_the_values(puts: list[tuple[str, int]]) -> None:
    """Whatever is put, in whichever order; the value put last is there if it fits."""
    lru: ByteLru[np.ndarray] = ByteLru(50)
    for key, size in puts:
        lru.put(key, array(size))
        assert lru.get(key) is not None
        kept = [value for name in "abcdef" if (value := lru.get(name)) is not None]
        assert lru.bytes == sum(1 + value.nbytes for value in kept) <= 50
