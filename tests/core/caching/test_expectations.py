"""What jobs need next is known until they have it, or are gone."""

from lego_serve.core.caching.expectations import Expectations


def test_what_any_job_needs_next_is_kept() -> None:
    """A job's next call replaces what it needs."""
    expected = Expectations(5.0)
    expected.expect("a", ["backbone", "vae"], 0.0)
    expected.expect("b", ["vae"], 1.0)
    assert expected.keys(2.0) == {"backbone", "vae"}
    expected.expect("a", [], 2.0)
    assert expected.keys(2.0) == {"vae"}


def test_a_job_that_never_comes_back_holds_nothing_for_ever() -> None:
    """Its gateway may be gone."""
    expected = Expectations(5.0)
    expected.expect("a", ["backbone"], 0.0)
    assert expected.keys(4.9) == {"backbone"}
    assert expected.keys(5.0) == frozenset()


def test_what_a_running_call_holds_stays_for_as_long_as_it_runs() -> None:
    """However many calls hold it, and with or without an expectation."""
    expected = Expectations(5.0)
    with expected.holding(["backbone", "vae"]):
        with expected.holding(["vae"]):
            assert expected.keys(1e9) == {"backbone", "vae"}
        assert expected.keys(1e9) == {"backbone", "vae"}
    assert expected.keys(0.0) == frozenset()


def test_it_is_known_when_the_next_expectation_ends() -> None:
    """For who waits for it."""
    expected = Expectations(5.0)
    assert expected.ends_s() is None
    expected.expect("a", ["backbone"], 2.0)
    expected.expect("b", ["vae"], 1.0)
    assert expected.ends_s() == 6.0
    assert expected.keys(6.0) == {"backbone"}
    assert expected.ends_s() == 7.0
