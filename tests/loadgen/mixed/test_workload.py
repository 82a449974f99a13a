from collections import Counter
from itertools import islice

import pytest

from loadgen.mixed.plan import MIXED
from loadgen.mixed.workload import CLOSED, FIRST_PROBE, RATED, WARM_UP, Workload

WORKLOAD = Workload(MIXED, 0)
PHASES = (CLOSED, RATED, WARM_UP, *range(FIRST_PROBE, 16))


def test_same_requests_for_both_systems() -> None:
    """A phase's requests depend on nothing but the seed, the round and the phase; fewer are the first of more."""
    again = Workload(MIXED, 0).requests(2, RATED, 40)
    assert WORKLOAD.requests(2, RATED, 80)[:40] == again
    assert Workload(MIXED, 1).requests(2, RATED, 40) != again


def test_prompts_and_seeds_never_repeat() -> None:
    """No prompt comes twice in a run, so no cache can answer for the model."""
    asked = [r for number in range(4) for phase in PHASES for r in WORKLOAD.requests(number, phase, 300)]
    assert len({r.prompt for r in asked}) == len(asked)
    assert len({r.seed for r in asked}) > 0.99 * len(asked)


def test_probes_share_their_mix() -> None:
    """All probes of a round ask for the same sizes, steps and guidances at the same relative times."""
    first, second = (WORKLOAD.requests(1, FIRST_PROBE + n, 50) for n in (0, 5))
    assert [(r.width, r.height, r.steps, r.guidance) for r in first] == [
        (r.width, r.height, r.steps, r.guidance) for r in second
    ]
    assert {r.prompt for r in first}.isdisjoint(r.prompt for r in second)
    assert WORKLOAD.arrival_rng(1, FIRST_PROBE).random() == WORKLOAD.arrival_rng(1, FIRST_PROBE + 5).random()


def test_common_rate_has_a_mix_of_its_own() -> None:
    """The latencies are not measured on the pattern that the rate was chosen by, nor on another round's."""
    patterns = [(1, FIRST_PROBE), (1, RATED), (2, FIRST_PROBE)]
    assert len({tuple(islice(WORKLOAD.shapes(*p), 50)) for p in patterns}) == len({*patterns})
    assert len({WORKLOAD.arrival_rng(*pattern).random() for pattern in patterns}) == len(patterns)


def test_mix_is_even() -> None:
    """Every class comes equally often in each hand of fifteen, a fifth of it without guidance."""
    shapes = list(islice(WORKLOAD.shapes(1, CLOSED), 60))
    for hand in (shapes[:15], shapes[45:]):
        assert set(Counter(MIXED.class_of(s.width, s.height) for s in hand).values()) == {5}
        assert sum(s.guidance == 1.0 for s in hand) == 3
    assert all(8 <= s.steps <= 28 for s in shapes)
    assert {s.steps for s in islice(WORKLOAD.shapes(1, CLOSED), 400)} == set(range(8, 29))


def test_sizes_are_served() -> None:
    """Every size is a multiple of 16 from 96 to 256, and some are not square."""
    sizes = [size for kind in MIXED.classes for size in kind.sizes]
    assert all(side % 16 == 0 and 96 <= side <= 256 for size in sizes for side in size)
    assert any(width != height for width, height in sizes)
    assert len(set(sizes)) == len(sizes)


def test_too_many() -> None:
    """Rather than repeat a prompt, the workload refuses."""
    with pytest.raises(ValueError, match="fresh prompts"):
        WORKLOAD.requests(1, CLOSED, 100_000)
