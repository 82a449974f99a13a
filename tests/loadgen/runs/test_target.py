import time

import httpx2
import pytest

from loadgen.mixed.plan import SearchPlan
from loadgen.mock_server import MockServer, MockSettings, ServiceTimes
from loadgen.runs.arrivals import Pattern
from loadgen.runs.outcome import Outcome
from loadgen.runs.posting import Mix, posted
from loadgen.runs.session import NotAnsweredError, Objectives
from loadgen.runs.source import ModelSource
from loadgen.runs.sweep import SweepPlan, sweep
from loadgen.runs.target import Target, connected
from tests.support.loadgen.queueing import highest_rate
from tests.support.loadgen.virtual_time import VirtualLoop

SERVICE_S = 0.5


def mock(settings: MockSettings) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(MockServer(settings).app), base_url="http://mock")


def test_models_are_those_of_the_server() -> None:
    """A server's list of models is read; an answer that is no list leaves none."""
    with connected(mock(MockSettings(ServiceTimes(1.0), models=("a", "b"))), Objectives(), print, VirtualLoop) as bench:
        assert bench.models == ["a", "b"]
    other = httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(404, text="no")), base_url="http://mock"
    )
    with connected(other, Objectives(), print) as bench:
        assert bench.models == []


def test_nobody_listens() -> None:
    """Where nobody answers, that is the error; what is no URL is refused."""
    with (
        pytest.raises(NotAnsweredError, match="nothing answers at"),
        connected(Target("http://127.0.0.1:9").open(), Objectives(), print),
    ):
        pass
    with pytest.raises(ValueError, match="is no URL"):
        Target("localhost:8000").open()


def test_keys_are_sent() -> None:
    """A key goes out as a bearer token."""
    assert Target("http://127.0.0.1:9", "secret").open().headers["authorization"] == "Bearer secret"


@pytest.mark.long
def test_a_sweep_over_http_finds_the_limit_of_a_queue() -> None:
    """The whole tool, against the mock server in virtual time, has in its interval the rate that theory names."""
    source = ModelSource(("mock",), Pattern(), sizes=("8x8",))
    began = time.monotonic()
    with connected(mock(MockSettings(ServiceTimes(SERVICE_S))), Objectives(scale=5.0), print, VirtualLoop) as bench:

        def attempt(rate_rps: float, count: int, repeat: int) -> list[Outcome]:
            records, arrivals = source.load(count, rate_rps, repeat)
            return bench.run(posted(records, Mix(), 0), arrivals, str(repeat))

        plan = SweepPlan(0.9, 0.8, 3, 800.0, 200, SearchPlan(1.35, 1.04, 1e9, 12))
        limit = sweep(attempt, plan, lambda: 0.0, print).limit
    assert limit.low_rps <= highest_rate(0.9, SERVICE_S, 5 * SERVICE_S) <= limit.high_rps
    assert limit.high_rps - limit.low_rps < 0.4
    assert time.monotonic() - began < 120  # of hours in virtual time
