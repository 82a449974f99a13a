"""A gateway that is there and does nothing is noticed, ended and replaced; one that is slow or starts is left alone."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lego_serve.core.silences import ALONE_S, PATIENCE_S
from lego_serve.process.supervisor import Supervisor
from lego_serve.supervision.gateway_pulse import GatewayPulse
from tests.support.chaos.faults import stopped

# A gateway as its supervisor sees it: a socket of its own, and an answer to whatever is asked there.
ANSWERS = """
import os, socket, sys
bound = socket.socket(socket.AF_UNIX)
bound.bind(os.path.join(sys.argv[1], f"{os.getpid()}.sock"))
bound.listen()
while True:
    asked, _ = bound.accept()
    asked.recv(4096)
    asked.send(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    asked.close()
"""
LOOK_S = 0.9  # by the clock of these tests, so that no look counts as late


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The supervisor's clock."""
    return Clock()


@pytest.fixture
def pulse(tmp_path: Path, clock: Clock) -> Iterator[GatewayPulse]:
    """Over an empty folder."""
    with closing(GatewayPulse(tmp_path, clock)) as pulse:
        yield pulse


def bound(folder: Path, pid: int, backlog: int | None = 8) -> socket.socket:
    """A gateway's own socket; it listens unless there is no backlog."""
    own = socket.socket(socket.AF_UNIX)
    own.bind(str(folder / f"{pid}.sock"))
    if backlog is not None:
        own.listen(backlog)
    return own


def answer(own: socket.socket) -> None:
    """Answer the question that is out."""
    asked, _ = own.accept()
    assert asked.recv(4096).startswith(b"GET /health/live HTTP/1.1\r\n")
    asked.send(b"HTTP/1.1 200 OK\r\n\r\n")
    asked.close()


def looked(pulse: GatewayPulse, clock: Clock, seconds: float, each: Callable[[], None] = lambda: None) -> list[int]:
    """Who hangs at any of the looks of some seconds."""
    found = []
    for _ in range(int(seconds / LOOK_S)):
        found += pulse.hung([1, 2])
        each()
        clock.now += LOOK_S
    return found


def test_one_that_leaves_a_question_unanswered_hangs(tmp_path: Path, pulse: GatewayPulse, clock: Clock) -> None:
    """Beside one that answers: after the patience, by one question, which is not put again."""
    with bound(tmp_path, 1) as silent, bound(tmp_path, 2) as lively:
        lively.setblocking(False)

        def answer_if_asked() -> None:
            try:
                answer(lively)
            except BlockingIOError:
                return

        assert looked(pulse, clock, PATIENCE_S - 1, answer_if_asked) == []
        assert set(looked(pulse, clock, 3, answer_if_asked)) == {1}
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize("backlog", [None, 0])
def test_one_that_does_not_listen_is_left_alone_and_a_full_one_is_not(
    tmp_path: Path, pulse: GatewayPulse, clock: Clock, backlog: int | None
) -> None:
    """It starts or stops where nobody listens; where no more may wait, it does not take what came before."""
    with bound(tmp_path, 1, backlog), socket.socket(socket.AF_UNIX) as other:
        if backlog is not None:
            other.connect(str(tmp_path / "1.sock"))
        found = looked(pulse, clock, 2 * ALONE_S)
    assert set(found) == (set() if backlog is None else {1})


def test_one_that_closes_the_connection_runs(tmp_path: Path, pulse: GatewayPulse, clock: Clock) -> None:
    """As one does that stops."""
    with bound(tmp_path, 1) as own:
        own.setblocking(False)

        def hang_up() -> None:
            try:
                own.accept()[0].close()
            except BlockingIOError:
                return

        assert looked(pulse, clock, 2 * ALONE_S, hang_up) == []


def test_a_stopped_process_is_ended_and_replaced_and_the_other_goes_on(tmp_path: Path) -> None:
    """By a supervisor over two real processes, in the patience and a little more."""
    ended: list[int] = []
    with closing(GatewayPulse(tmp_path)) as pulse:
        gateways = Supervisor(lambda: [sys.executable, "-c", ANSWERS, str(tmp_path)], 2, ended.append, hung=pulse.hung)
        gateways.start()
        victim, other = gateways.pids
        try:
            while not all((tmp_path / f"{pid}.sock").exists() for pid in (victim, other)):
                time.sleep(0.02)
            with stopped(victim):
                limit = time.monotonic() + 120
                gateways.watch(lambda: bool(ended) or time.monotonic() > limit)
            assert ended == [victim]
            assert other in gateways.pids
            assert victim not in gateways.pids
            assert len(gateways.pids) == 2
            os.kill(other, signal.SIGCONT)  # it is there still
        finally:
            gateways.shut_down()
