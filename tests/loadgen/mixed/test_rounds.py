from dataclasses import replace

import pytest

from loadgen.mixed.plan import MIXED, Layout
from loadgen.mixed.rounds import Measurements, measure
from loadgen.mixed.summarise import figures
from loadgen.mixed.trials import best_layout
from loadgen.mixed.workload import CLOSED
from loadgen.summary import NoImagesError, ratios
from loadgen.traffic import ClosedLoop, Poisson
from tests.support.loadgen.simulated import World, cost_s, world


def seen(speed: float = 2.0) -> tuple[World, Measurements]:
    place = world(speed)
    return place, measure(place.bench)


def test_faster_server_bears_a_higher_rate() -> None:
    """A server twice as fast at everything bears about twice the rate and more than halves the latency there."""
    _, found = seen(speed=2.0)
    lego_over_baseline = ratios(*(figures(r, found.objective, MIXED) for r in (found.baseline, found.lego)))
    assert (lego_over_baseline["max_rate_at_90pct"] or 0) > 1.8
    assert lego_over_baseline["throughput"] == pytest.approx(2.0, rel=0.1)
    assert (lego_over_baseline["mean"] or 1) < 0.5


def test_equal_servers_measure_equal() -> None:
    """A server as fast as the baseline gets the same closed throughput."""
    _, found = seen(speed=1.0)
    baseline, lego = (figures(r, found.objective, MIXED).medians for r in (found.baseline, found.lego))
    assert baseline["throughput_rps"] == lego["throughput_rps"]


def test_objective_is_the_baselines() -> None:
    """The objective comes from the baseline's solo time, whatever the server's."""
    place, found = seen()
    request = place.bench.workload.requests(1, CLOSED, 1)[0]
    assert found.objective.slo_s(request) == pytest.approx(5 * cost_s(request))


def test_baseline_runs_at_its_best() -> None:
    """The layout with the higher throughput in the trial is the one measured: two workers beat two threads here."""
    _, found = seen()
    assert best_layout(found.layouts) == Layout(2, 1)
    assert best_layout({Layout(1, 2): 2.0, Layout(2, 1): 1.9}) == Layout(1, 2)


def test_systems_take_turns() -> None:
    """After the trials of layouts the systems alternate, each started anew."""
    place, _ = seen()
    assert [name for name, _ in place.servers] == ["baseline", "baseline", *["baseline", "lego"] * 2]


def test_both_systems_get_the_same_requests() -> None:
    """The closed loop and the common rate bring the same requests to both systems, the latter at the same rate."""
    _, found = seen()
    for theirs, ours in zip(found.baseline, found.lego, strict=True):
        assert theirs.closed.requests == ours.closed.requests
        assert theirs.rated.requests == ours.rated.requests
        assert [s.due_s for s in theirs.rated.samples] == [s.due_s for s in ours.rated.samples]
    assert found.rates_rps == [each.search.highest_rps for each in found.baseline]


def test_deadlines_go_to_lego_in_open_loops() -> None:
    """Only lego_serve is told deadlines, and only where latency counts: a closed loop measures throughput."""
    place, _ = seen()
    assert not any(told for _, _, told in place.runs_of("baseline"))
    for _, arrivals, told in place.runs_of("lego"):
        assert told == isinstance(arrivals, Poisson)


def test_closed_loop_has_sixteen_outstanding() -> None:
    """Throughput is measured with sixteen outstanding on both systems."""
    place, _ = seen()
    for name in ("baseline", "lego"):
        assert {a.outstanding for _, a, _ in place.runs_of(name) if isinstance(a, ClosedLoop)} <= {16, 1}


def test_second_round_starts_where_the_first_ended() -> None:
    """A search starts from the side's last result, so that later rounds need few probes."""
    _, found = seen()
    for rounds in (found.baseline, found.lego):
        assert rounds[1].search.probes[0].rate_rps == rounds[0].search.highest_rps


def test_compiled_variant_is_reported() -> None:
    """With time enough the compiled baseline is measured beside the eager one."""
    found = measure(world(rounds=1, compiled_s=1e9).bench).compiled
    assert found is not None
    assert found.solo_ratio == pytest.approx(0.8)
    assert found.throughput_rps
    assert found.reason is None


def test_compiling_too_long_is_told() -> None:
    """A variant that is not warm in time is null, with the reason."""
    found = measure(world(rounds=1, compiled_s=60.0).bench).compiled
    assert found is not None
    assert found.throughput_rps is None
    assert "kinds of requests were warm" in (found.reason or "")


def test_backbones_are_tried() -> None:
    """With layouts to try, the server is measured in its best."""
    place = world(rounds=1, lego_backbones=(1, 2))
    found = measure(place.bench)
    assert found.backbones[2] > found.backbones[1]
    assert [name for name, _ in place.servers].count("lego") == 3


def test_time_ends_the_rounds() -> None:
    """A round that would not end in time is left out; the ones before stand."""
    place = world(rounds=3, ends_after_s=1.0)
    found = measure(place.bench)
    assert len(found.baseline) == len(found.lego) == 1
    assert "round 2 is left out" in place.lines[-1]


def test_baseline_without_a_rate() -> None:
    """A baseline that meets its objective at no rate ends the run with a reason."""
    strict = world(suite=replace(MIXED, slo_scale=0.5))
    with pytest.raises(NoImagesError, match="at no rate"):
        measure(strict.bench)
