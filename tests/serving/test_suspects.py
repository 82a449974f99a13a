"""What is remembered of suspects that run, for those whose replicas can no longer say it."""

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import PREPARING
from lego_serve.serving.suspects import StoredWitness
from tests.support.scale_texts import FakeStore

NO_STORE = (ConnectionError,)


def test_the_last_word_of_a_call_is_the_lane_that_was_about_to_run() -> None:
    """Each call has its own, and once it has been asked for nothing of it is left."""
    store = FakeStore()
    witness = StoredWitness(store, NO_STORE)
    assert witness.note("a", LaneProgress(2, PREPARING, 9, is_starting=True))
    assert witness.note("a", LaneProgress(2, 4, 9, is_starting=True))
    assert witness.note("b", LaneProgress(0, 7, 9, is_starting=True))
    assert witness.last_words("a") == (LaneProgress(2, 4, 9, is_starting=True),)
    assert witness.last_words("a") == ()
    assert len(store.texts) == 1


def test_of_a_lane_that_came_through_there_is_no_word() -> None:
    """Nor of a call that was never one."""
    store = FakeStore()
    witness = StoredWitness(store, NO_STORE)
    witness.note("a", LaneProgress(0, 4, 9, is_starting=True))
    witness.clear("a")
    assert witness.last_words("a") == ()
    assert not store.texts


def test_a_witness_whose_store_is_away_says_that_it_knows_nothing() -> None:
    """That is another answer than that no lane was about to run."""
    store = FakeStore()
    store.is_gone = True
    witness = StoredWitness(store, NO_STORE)
    assert not witness.note("a", LaneProgress(0, 4, 9, is_starting=True))
    witness.clear("a")
    assert witness.last_words("a") is None
