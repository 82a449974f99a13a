"""Suites of goodput over servers of known speed: both sides get the same, and the numbers are those of the queue."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.client import Reply, Sample
from loadgen.goodput import run as module
from loadgen.goodput.plan import BURST, MULTI, GoodputSuite
from loadgen.goodput.run import GoodputSystems, compare_goodput
from loadgen.goodput.summarise import goodput_ratio, rate_at_share
from loadgen.mixed.plan import Layout
from tests.support.loadgen.goodput_servers import QueueServer, small_png


class Servers:
    """All that were started, by system."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.baselines: list[QueueServer] = []
        self.legos: list[QueueServer] = []

    def systems(self) -> GoodputSystems:
        """A baseline of a second an image, of half a second in two replicas, and a server that refuses in time."""
        return GoodputSystems(self._baseline, self._lego)

    def _baseline(self, layout: Layout) -> QueueServer:
        made = QueueServer(self.log, layout.name, 1.0 / layout.replicas, drops=False)
        self.baselines.append(made)
        return made

    def _lego(self) -> QueueServer:
        made = QueueServer(self.log, "lego", 0.4, drops=True)
        self.legos.append(made)
        return made


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    """None yet; this process is not pinned."""
    monkeypatch.setattr(module, "pin", lambda cores: list(range(cores)))
    monkeypatch.setattr(module, "busy_share", lambda seconds: 0.25)
    return Servers()


def run(suite: GoodputSuite, servers: Servers, out: Path) -> dict:
    """The summary as it was written."""
    found = compare_goodput(suite, servers.systems(), out, quick=True, on_line=lambda line: None)
    written: dict = json.loads((out / "summary.json").read_text())
    assert written == json.loads(json.dumps(found))
    return written


def test_a_burst_is_put_on_the_best_baseline_and_on_the_server_alike(servers: Servers, tmp_path: Path) -> None:
    """The same requests at the same times; the server knows the objective, and what it refuses is counted so."""
    summary = run(BURST, servers, tmp_path)
    assert servers.log[::2] == ["1 replica x 2 threads", "2 replicas x 1 thread", "2 replicas x 1 thread", "lego"]
    assert summary["solo_s"] == 0.5
    assert summary["baseline"]["loads"][0]["rate_rps"] == pytest.approx(0.7 * 2.0)
    compared = [side.sent[-BURST.quick.requests :] for side in (servers.baselines[-1], servers.legos[-1])]
    assert compared[0] == compared[1]
    lego, baseline = summary["lego"]["loads"][0], summary["baseline"]["loads"][0]
    assert lego["refused"] > 0
    assert lego["refused_p99_ms"] == pytest.approx(10.0)
    assert lego["attainment"] + lego["refused"] / lego["requests"] == pytest.approx(1.0, abs=1e-3)
    assert baseline["refused"] == baseline["failed"] == 0
    [ratio] = summary["ratio"]["goodput"]
    assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert ratio["ratio"] == pytest.approx(lego["attainment"] / baseline["attainment"], abs=1e-3)
    assert (summary["ratio"]["memory"], summary["busy_before"]) == (0.25, 0.25)
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_five_workflows_are_asked_for_by_popularity_which_turns_around(servers: Servers, tmp_path: Path) -> None:
    """A baseline has an application for each; the server knows them by name."""
    suite = replace(MULTI, quick=replace(MULTI.quick, requests=400), loads=(0.5,))
    run(suite, servers, tmp_path)
    sent = servers.legos[0].sent[-400:]
    first, last = (Counter(request.workflow for request in half) for half in (sent[:200], sent[200:]))
    assert first.most_common(1)[0][0] == "poster"
    assert last.most_common(1)[0][0] == "card"
    assert set(first) == set(last) == set(MULTI.workflows)
    assert {request.path for request in sent} == {"/v1/images/generations"}
    paths = {request.workflow: request.path for request in servers.baselines[-1].sent}
    assert (paths["poster"], paths["card"]) == ("/v1/images/generations", "/card/v1/images/generations")
    assert sent[0].body("lego-tiny")["model"] == sent[0].workflow


def test_no_prompt_comes_twice(servers: Servers, tmp_path: Path) -> None:
    """On either system, so that no cache helps."""
    run(BURST, servers, tmp_path)
    for side in (*servers.baselines, *servers.legos):
        assert len({request.prompt for request in side.sent}) == len(side.sent)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 1.0), (2.0, 0.8)], 1.5),
        ([(2.0, 0.8), (1.0, 0.95), (3.0, 0.99)], pytest.approx(1.3333)),
        ([(1.0, 1.0), (2.0, 0.9)], 2.0),
        ([(1.0, 0.5), (2.0, 1.0)], None),
    ],
)
def test_the_rate_at_90_percent_lies_between_those_tried(
    points: Sequence[tuple[float, float]], expected: float | None
) -> None:
    """The first fall counts; below the lowest nothing is known."""
    assert rate_at_share(points) == expected


def test_without_an_image_in_time_there_is_no_ratio() -> None:
    """Not infinity."""
    late = [[Sample(0.0, 0.0, 9.0, Reply(small_png()))]]
    assert goodput_ratio(late, late, 1.0, 0) == {"ratio": None, "low": None, "high": None}
