"""A pool decides what a plain definition of it says, in a tenth of its time."""

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolRule
from tests.support.pools import MODELS, NAMES, SECONDS, SETS, PlainPool, job

happenings = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40), SECONDS, SETS, SECONDS | st.just(float("inf"))),
        st.tuples(st.just("forecast"), st.just(99), SECONDS, SETS, SECONDS | st.just(float("inf"))),
        st.tuples(st.just("end"), st.integers(0, 40)),
        st.tuples(st.just("progressed"), st.integers(0, 40), SECONDS),
        st.tuples(st.just("report"), st.dictionaries(st.sampled_from(NAMES), SETS)),
        st.tuples(st.just("left"), st.sampled_from(NAMES)),
        st.tuples(st.just("aside"), st.sets(st.sampled_from(NAMES), max_size=2)),
        st.tuples(st.just("held"), st.sampled_from(NAMES), st.sampled_from(MODELS), SECONDS, st.integers(0, 40)),
        st.tuples(st.just("loaded"), st.sampled_from(MODELS), SECONDS),
        st.tuples(
            st.just("steal"),
        ),
    ),
    max_size=60,
)


@given(happenings, st.integers(1, 3), st.floats(0.0, 2.0))
def test_what_is_decided_is_what_the_plain_definition_says(happened: list[tuple], ahead: int, ahead_s: float) -> None:
    """Event by event: where jobs go, which are taken, and what newcomers hear."""
    made, plain = Pool(PoolRule(ahead, ahead_s)), PlainPool(PoolRule(ahead, ahead_s))
    for number, (kind, *rest) in enumerate(happened):
        now = 0.25 * number
        heard = []
        for each in (made, plain):
            if kind == "add":
                heard.append(each.add(job(rest[0], rest[1], rest[2], now + rest[3]), now))
            elif kind == "forecast":
                heard.append(each.forecast(job(rest[0], rest[1], rest[2], now + rest[3]), now))
            elif kind == "end":
                heard.append(each.end(f"job {rest[0]}", now))
            elif kind == "progressed":
                heard.append(each.progressed(f"job {rest[0]}", rest[1]))
            elif kind == "report":
                heard.append(each.report(rest[0]))
            elif kind == "left":
                heard.append(each.left(rest))
            elif kind == "aside":
                heard.append(each.set_aside(rest[0]))
            elif kind == "held":
                heard.append(each.held_back(rest[0], rest[1], now + rest[2], f"job {rest[3]}"))
            elif kind == "loaded":
                heard.append(each.loaded(*rest))
            else:
                heard.append((each.bind(now), each.steal(now)))
        assert heard[0] == heard[1]


def crowd(kind: type[Pool], workers: int, waiting: int) -> Pool:
    """A pool with so many jobs beyond what its workers have ahead; three of eight models are on each worker."""
    rng, models = random.Random(1), [f"m{number}" for number in range(8)]
    made = kind()
    made.report({f"w{number:02d}": rng.sample(models, 3) for number in range(workers)})
    for number in range(8 * workers + waiting):
        made.take(job(number, 1.0 + rng.random(), frozenset(rng.sample(models, 2)), 600.0 + rng.random()), 0.0)
    made.bind(0.0)
    return made


def processor_s(call: Callable[[], object]) -> float:
    """The least of a few times that a call takes."""
    taken = []
    for _ in range(5):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return min(taken)


@pytest.mark.long
def test_a_thousand_waiting_jobs_are_placed_ten_times_as_fast_as_by_the_plain_definition() -> None:
    """On 64 workers, where nothing has room any more; and a newcomer hears its end so much sooner."""
    made, plain = crowd(Pool, 64, 1000), crowd(PlainPool, 64, 1000)
    assert made.waiting == plain.waiting >= 900
    assert made.bind(0.0) == plain.bind(0.0) == []
    assert 10.0 * processor_s(lambda: made.bind(0.0)) < processor_s(lambda: plain.bind(0.0))
    newcomer = job(9999, deadline_s=601.0)
    assert made.forecast(newcomer, 0.0) == plain.forecast(newcomer, 0.0)
    assert 10.0 * processor_s(lambda: made.forecast(newcomer, 0.0)) < processor_s(lambda: plain.forecast(newcomer, 0.0))
