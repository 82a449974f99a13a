"""Suites of tiers: who is asked for what, and a whole run over simulated servers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.mixed import run as module
from loadgen.mixed.workload import CLOSED, Workload
from loadgen.tiers.plan import AGAINST_TEN, ALL_BALANCED, SOME_BALANCED, STEPS, TIERS, TierSuite
from loadgen.tiers.requests import TieredRequest, TieredWorkload
from loadgen.tiers.run import compare_tiers
from loadgen.traffic import ImageRequest
from tests.support.loadgen.simulated import EFFORT, SimulatedServer, cost_s, world


def tiers_of(suite: TierSuite, count: int) -> list[str]:
    """The tiers that a closed loop's requests name."""
    requests = TieredWorkload(Workload(suite.mixed, 0), suite).requests(1, CLOSED, count)
    return [str(request.body("m").get("tier", "")) for request in requests]


@given(st.integers(1, 90), st.floats(0, 1))
def test_exactly_the_share_names_the_tier(count: int, share: float) -> None:
    """Of any first requests, to less than one; the requests are otherwise those without tiers."""
    named = tiers_of(replace(SOME_BALANCED, share=share), count)
    assert abs(named.count("balanced") - share * count) < 1 + 1e-6
    plain = Workload(SOME_BALANCED.mixed, 0).requests(1, CLOSED, count)
    tiered = TieredWorkload(Workload(SOME_BALANCED.mixed, 0), SOME_BALANCED).requests(1, CLOSED, count)
    assert [replace(each, tier="").body("m") for each in tiered] == [each.body("m") for each in plain]
    assert {each.steps for each in plain} == {STEPS}


def test_the_suites_are_those_that_are_documented() -> None:
    """All balanced against 28 and against ten plain steps, and three in ten against none."""
    assert set(TIERS) == {"mixed-balanced", "mixed-balanced-plain", "mixed-some-balanced"}
    assert set(tiers_of(ALL_BALANCED, 20)) == {"balanced"}
    assert tiers_of(SOME_BALANCED, 20).count("balanced") == 6


def tiered_cost_s(request: ImageRequest) -> float:
    """Seconds of a server that knows the tier."""
    is_balanced = isinstance(request, TieredRequest) and request.tier == "balanced"
    return cost_s(replace(request, steps=10) if is_balanced else request)


@pytest.mark.parametrize("suite", TIERS.values(), ids=TIERS)
def test_a_suite_measures_what_it_is_named_for(
    suite: TierSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline never hears of a tier, and is asked for its own steps; equal servers differ by the work alone."""
    monkeypatch.setattr(module, "pin", lambda cores: list(range(cores)))
    place = world(speed=1.0)
    servers: dict[str, list[SimulatedServer]] = {"baseline": [], "lego": []}

    def started(side: str) -> SimulatedServer:
        servers[side].append(SimulatedServer(place.clock, tiered_cost_s, workers=2))
        return servers[side][-1]

    systems = replace(
        place.bench.systems, baseline=lambda layout, compiled: started("baseline"), lego=lambda count: started("lego")
    )
    suite = replace(suite, mixed=replace(suite.mixed, quick=EFFORT))
    found = compare_tiers(suite, systems, tmp_path, quick=True, on_line=place.lines.append)
    ratio = json.loads((tmp_path / "summary.json").read_text())["ratio"]["throughput"]
    asked = [request for server in servers["lego"] for requests, _, _ in server.runs for request in requests]
    assert any(request.body("m").get("tier") == "balanced" for request in asked)
    expected = {ALL_BALANCED.name: (2.2, 2.9), AGAINST_TEN.name: (0.95, 1.05), SOME_BALANCED.name: (1.1, 1.45)}
    low, high = expected[suite.name]
    assert low < ratio < high
    if not suite.is_of_lego:
        plain = [request for server in servers["baseline"] for requests, _, _ in server.runs for request in requests]
        assert {request.steps for request in plain} == {suite.baseline_steps}
        assert not any("tier" in request.body("m") for request in plain)
    assert found["baseline"]["name"] == suite.mixed.baseline  # type: ignore[index]
