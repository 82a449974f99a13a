import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import httpx2
import pytest

from loadgen.mock_server import MockServer, MockSettings, ServiceTimes
from loadgen.runs.arrivals import Constant, Schedule
from loadgen.runs.outcome import Outcome
from loadgen.runs.posting import Mix, Posted, posted
from loadgen.runs.session import NotAnsweredError, Objectives, Session
from loadgen.runs.summary import summarise
from loadgen.traces.record import Record
from loadgen.traffic import Arrivals, ClosedLoop
from tests.support.loadgen.virtual_time import run_virtually

Act = Callable[[Session], Coroutine[Any, Any, Any]]


def requests(count: int, steps: Sequence[int] = (4,), **extra: object) -> list[Posted]:
    records = [
        Record(0, {"prompt": "p", "size": "8x8", "num_inference_steps": steps[i % len(steps)], "seed": i}, extra)
        for i in range(count)
    ]
    return posted(records, Mix(), 0)


def act(settings: MockSettings, objectives: Objectives, work: Act, said: list[str] | None = None) -> Any:
    """Do something with a session against a mock server, in virtual time."""

    async def go() -> object:
        transport = httpx2.ASGITransport(MockServer(settings).app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://mock") as http:
            return await work(Session(http, objectives, (said if said is not None else []).append))

    return run_virtually(go())


def load(settings: MockSettings, count: int, arrivals: Arrivals, objectives: Objectives | None = None) -> list[Outcome]:
    def work(session: Session) -> Coroutine[Any, Any, list[Outcome]]:
        return session.run(requests(count), arrivals, random.Random(0))

    outcomes: list[Outcome] = act(settings, objectives or Objectives(), work)
    return outcomes


def test_open_loop_sends_on_schedule_although_answers_are_late() -> None:
    """Behind a stalled server every request still leaves when it is due, and its latency counts the whole wait.

    A client that waited for answers would leave out exactly the requests that had to wait.
    """
    outcomes = load(MockSettings(ServiceTimes(10.0)), 20, Constant(20, 1.0))
    assert [o.sent_s for o in outcomes] == pytest.approx([float(second + 1) for second in range(20)])
    assert [o.latency_s for o in outcomes] == pytest.approx([10.0 + 9.0 * index for index in range(20)])
    assert summarise(outcomes)["client"] == {"late_p99_s": 0.0, "is_late": False}


def test_closed_loop_waits_for_answers() -> None:
    """A closed loop sends the next when one is answered: its rate is the server's, and nothing queues."""
    outcomes = load(MockSettings(ServiceTimes(2.0), workers=3), 12, ClosedLoop(12, 3))
    assert max(o.latency_s for o in outcomes) == pytest.approx(2.0)
    assert max(o.done_s for o in outcomes) == pytest.approx(8.0)


def test_objectives_are_a_multiple_of_the_seconds_alone() -> None:
    """Every kind of request is timed alone, and may take its multiple; each kind is timed once."""
    said: list[str] = []

    async def twice(session: Session) -> list[Outcome]:
        arrivals = Schedule([0.0, 100.0])
        first = await session.run(requests(2, steps=(4, 8)), arrivals, random.Random(0))
        return [*first, *await session.run(requests(2, steps=(4, 8)), arrivals, random.Random(0))]

    outcomes: list[Outcome] = act(MockSettings(ServiceTimes(1.0, 0.25)), Objectives(scale=3.0), twice, said)
    assert [o.slo_s for o in outcomes] == pytest.approx([6.0, 9.0, 6.0, 9.0])
    assert sum(line.startswith("alone") for line in said) == 2
    assert "after 15 s 1 of 2 requests have ended" in said


def test_objectives_come_from_the_trace_unless_given() -> None:
    """A trace's objective counts where none is given, and one that is given counts instead."""

    async def slo(session: Session) -> list[float | None]:
        return await session.slo_s(requests(1, slo_ms=1500))

    settings = MockSettings(ServiceTimes(1.0))
    assert act(settings, Objectives(), slo) == [1.5]
    assert act(settings, Objectives(slo_ms=700), slo) == [0.7]
    assert act(settings, Objectives(scale=2.0), slo) == pytest.approx([2.0])


def test_too_many_kinds_are_not_timed() -> None:
    """A trace of very many kinds needs an objective in milliseconds."""

    async def slo(session: Session) -> list[float | None]:
        return await session.slo_s(requests(50, steps=range(1, 51)))

    with pytest.raises(ValueError, match="50 kinds of requests"):
        act(MockSettings(ServiceTimes(1.0)), Objectives(scale=2.0), slo)


def test_a_server_that_never_answers_ends_the_warm_up() -> None:
    """Where no request of the warm-up, or none alone, gets an image, its answer is the error."""
    broken = MockSettings(ServiceTimes(1.0), failures=1.0)
    with pytest.raises(NotAnsweredError, match="failed, as told to"):
        act(broken, Objectives(), lambda session: session.warm_up(requests(2)))
    with pytest.raises(NotAnsweredError, match="no image alone"):
        act(broken, Objectives(scale=2.0), lambda session: session.slo_s(requests(1)))


def test_deadlines_are_told() -> None:
    """Told to, the client sends each objective as the server's deadline."""
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.content)
        return httpx2.Response(200, json={"data": [{"b64_json": ""}]})

    async def go() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://mock") as http:
            session = Session(http, Objectives(slo_ms=1234, is_sent=True), lambda _: None)
            mixed = [*requests(1), *requests(1, kind="edit")]
            await session.run(mixed, Schedule([0.0, 0.0]), random.Random(0))

    asyncio.run(go())
    assert b'"deadline_ms":1234' in bodies[0]
    assert b'name="deadline_ms"\r\n\r\n1234' in bodies[1]


def test_refusals_are_counted_as_what_they_are() -> None:
    """Refused requests have their status, no latency among the answered, and have missed their objective."""
    outcomes = load(MockSettings(ServiceTimes(1.0), most_waiting=1), 10, Schedule([0.0] * 10), Objectives(slo_ms=1500))
    summary = summarise(outcomes)
    assert summary["statuses"] == {"200": 2, "429": 8}
    assert summary["attainment"] == 0.1
    assert summary["answered"] == 2
    assert "1 requests wait already" in str(summary["first_error"])
