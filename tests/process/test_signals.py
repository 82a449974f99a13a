"""Signals set a flag; work on its own thread looks at it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lego_serve.process.signals import Stopped, StopSignal, run_off_main_thread


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test does to the handlers is undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so: what a signal does is done by the main thread, when that has its turn."""
    limit = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_interrupts_nothing_and_is_found_at_the_next_look(number: signal.Signals, status: int) -> None:
    """The work goes on to its own check, which ends the process with the shell's status for the signal."""
    stopping = StopSignal()
    stopping.install()
    done: list[str] = []

    def work() -> None:
        os.kill(os.getpid(), number)
        wait_for(lambda: stopping.is_asked)
        done.append("undisturbed")
        stopping.check()
        done.append("too late")

    with pytest.raises(Stopped) as ended:
        run_off_main_thread(work, stopping)
    assert (ended.value.code, done) == (status, ["undisturbed"])
    assert stopping.is_asked


def test_a_handler_that_somebody_else_puts_in_is_replaced() -> None:
    """Libraries set handlers when they start; ours come back before long."""
    stopping = StopSignal()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def work() -> bool:
        wait_for(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stopping.is_asked)
        return stopping.is_asked

    assert run_off_main_thread(work, stopping)


def test_what_the_work_answers_or_raises_comes_back() -> None:
    """From its thread to the one that waits."""
    assert run_off_main_thread(lambda: threading.current_thread().name, StopSignal()) == "server"

    def fail() -> None:
        raise KeyError("a")

    with pytest.raises(KeyError):
        run_off_main_thread(fail, StopSignal())
