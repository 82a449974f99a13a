"""Cores that computations share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.prediction.systems.addon_loads import AddonLoads, Store
from benchmarks.prediction.systems.cores import Cores
from lego_serve.sim.engine import Engine

jobs = st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 3.0), st.integers(1, 2)), min_size=1, max_size=12)


@given(jobs, st.integers(1, 3), st.floats(0.0, 1.0))
def test_no_core_does_two_things_at_once(load: list[tuple[float, float, int]], count: int, crowding: float) -> None:
    """Nothing ends before its own seconds, all is done, and no more than so many core seconds pass."""
    engine, ends = Engine(), dict[int, float]()
    cores = Cores(engine, count)

    def begin(number: int, seconds: float, threads: int) -> None:
        cores.run(seconds, lambda: ends.setdefault(number, engine.now), threads=threads, crowding=crowding)

    for number, (at_s, seconds, threads) in enumerate(load):
        engine.at(at_s, begin, number, seconds, threads)
    engine.run()
    assert len(ends) == len(load)
    for number, (at_s, seconds, _) in enumerate(load):
        assert ends[number] >= at_s + seconds - 1e-6
    wanted = sum(seconds * min(threads, count) for _, seconds, threads in load)
    assert engine.now >= min(at_s for at_s, _, _ in load) + wanted / count - 1e-6


def test_company_slows_down() -> None:
    """Two on two cores at 20 % crowding take 1.2 times as long; three share what there is."""
    for number, expected in ((1, 1.0), (2, 1.2), (3, 1.5 * 1.2)):
        engine = Engine()
        cores = Cores(engine, 2)
        for _ in range(number):
            cores.run(1.0, lambda: None, crowding=0.2)
        engine.run()
        assert engine.now == pytest.approx(expected)


def test_add_ons_are_loaded_once_and_kept_as_the_ledger_says() -> None:
    """Who asks meanwhile waits for the same load; what does not fit is loaded again."""
    engine, ends = Engine(), list[float]()
    loads = AddonLoads(engine, Store({"a": 60, "b": 60}, 100, 2.0), 100)
    for at_s in (0.0, 1.0, 5.0):
        engine.at(at_s, loads.fetch, ["a"], lambda: ends.append(engine.now))
    engine.run()
    assert (ends, loads.loads) == ([2.0, 2.0, 5.0], 1)
    loads.fetch(["b", "a"], lambda: ends.append(engine.now))
    engine.run()
    assert (ends[-1], loads.loads) == (7.0, 2)
    loads.fetch([], lambda: ends.append(engine.now))
    assert ends[-1] == 7.0
