import random

import pytest

from loadgen.runs.arrivals import Pattern
from loadgen.runs.source import ModelSource, TraceSource
from loadgen.traces.record import Record


def trace(*seconds: float) -> list[Record]:
    return [Record(1000 * at_s, {"prompt": str(index), "seed": index}) for index, at_s in enumerate(seconds)]


def test_models_are_asked_in_turn_with_new_prompts() -> None:
    """A repeat has prompts and seeds of its own, and is the same at every rate."""
    source = ModelSource(("a", "b"), Pattern(), sizes=("64x64", "32x32"), steps=3, adapters=("s",))
    slow, _ = source.load(40, 1.0, 0)
    fast, due = source.load(40, 9.0, 0)
    other, _ = source.load(40, 1.0, 1)
    assert slow == fast
    assert not {r.payload["seed"] for r in slow} & {r.payload["seed"] for r in other}
    assert {r.payload["model"] for r in slow} == {"a", "b"}
    assert {r.payload["size"] for r in slow} == {"64x64", "32x32"}
    assert all(r.payload["num_inference_steps"] == 3 and r.names("adapters") == ("s",) for r in slow)
    assert due.times_s(random.Random(0))[-1] < 40 / 9.0


def test_a_trace_keeps_its_pattern_at_any_rate() -> None:
    """The gaps of a trace scale together, so that the mean rate is the one asked for."""
    source = TraceSource(trace(0, 1, 2, 6))
    _, due = source.load(4, 2.0, 0)
    assert due.times_s(random.Random(0)) == pytest.approx([0, 0.25, 0.5, 1.5])


def test_a_trace_goes_round_with_other_seeds() -> None:
    """A trace that is too short begins anew after its mean gap, and no request is a copy of an earlier one."""
    records, due = TraceSource(trace(0, 1, 2)).load(7, 1.0, 0)
    assert due.times_s(random.Random(0)) == pytest.approx([0, 1, 2, 3, 4, 5, 6])
    assert len({record.payload["seed"] for record in records}) == 7


def test_repeats_begin_elsewhere_in_the_trace() -> None:
    """Each repeat takes another part of the trace."""
    source = TraceSource(trace(*range(30)), repeats=3)
    firsts = [source.load(5, 1.0, repeat)[0][0].payload["prompt"] for repeat in range(3)]
    assert firsts == ["0", "10", "20"]


def test_a_trace_without_a_span_has_no_rate() -> None:
    """Requests that are all due at once cannot be brought to a rate."""
    with pytest.raises(ValueError, match="due at once"):
        TraceSource(trace(0, 0, 0)).load(3, 1.0, 0)


def test_takes_differ_in_prompt_and_seed_alone() -> None:
    """Each trial of a search has prompts and seeds of its own, and the same mix and pattern otherwise."""
    for source in (ModelSource(("a", "b"), Pattern(), sizes=("64x64", "8x8")), TraceSource(trace(*range(30)))):
        one, other = (source.load(12, 2.0, 0, take)[0] for take in (1, 2))
        for field in ("prompt", "seed"):
            assert not {record.payload[field] for record in one} & {record.payload[field] for record in other}
        assert [r.payload.get("size") for r in one] == [r.payload.get("size") for r in other]
        assert [r.payload.get("model") for r in one] == [r.payload.get("model") for r in other]
