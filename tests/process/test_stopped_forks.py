"""Forks that are stopped and stay so are ended: nobody else would end one that Ray takes for ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.process import fork_server
from lego_serve.process.fork_server import LOOK_EVERY_S, MOST_LOOKS_STOPPED, StoppedForks
from tests.support.processes import is_alive, state_of, wait_for

QUICK_SERVER = """
import runpy, socket, sys
from lego_serve.process import fork_server
fork_server.LOOK_EVERY_S = 0.05
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
fork_server.serve(listener, [])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def ended(states: list[str | None]) -> int | None:
    """The look, counted from one, at which a fork that was seen in these states is ended; None if it is not."""
    seen = iter(states)
    forks = StoppedForks(lambda pid: next(seen))
    forks.add(7)
    for look in range(len(states)):
        if forks.overdue(look * LOOK_EVERY_S) == [7]:
            assert forks.wait_s(0.0) is None  # it is forgotten
            return look + 1
        assert forks.overdue(look * LOOK_EVERY_S + 0.1) == []  # not before the next look is due
        if forks.wait_s(0.0) is None:
            return None
    return None


@given(st.lists(st.sampled_from(["T", "T", "T", "S", "R", "t", "D", None]), max_size=60))
def test_a_fork_is_ended_at_the_seventh_look_in_a_row_that_finds_it_stopped(states: list[str | None]) -> None:
    """Not where it went on in between, nor one that a debugger holds, nor after it has ended by itself."""
    until = states.index(None) if None in states else len(states)
    run, expected = 0, None
    for look, state in enumerate(states[:until], 1):
        run = run + 1 if state == "T" else 0
        if run > MOST_LOOKS_STOPPED:
            expected = look
            break
    assert ended(states) == expected


def test_a_server_that_was_held_up_itself_does_not_count_the_time() -> None:
    """A machine that sleeps, or a whole server that is stopped and goes on, loses no fork."""
    forks = StoppedForks(lambda pid: "T")
    forks.add(7)
    assert [forks.overdue(at) for at in (0.0, 1000.0, 2000.0)] == [[], [], []]


def test_without_forks_nothing_is_waited_for() -> None:
    """The server sleeps until somebody connects."""
    assert StoppedForks(lambda pid: "T").wait_s(0.0) is None


def test_a_stopped_fork_is_ended_by_its_server_and_its_launcher_with_it(tmp_path: Path) -> None:
    """A fork beside it that runs goes on."""
    server_script, script, path = tmp_path / "server.py", tmp_path / "script.py", tmp_path / "fork.sock"
    server_script.write_text(QUICK_SERVER)
    script.write_text("import os, sys; print(os.getpid(), flush=True); print(sys.stdin.readline())")
    server = subprocess.Popen([sys.executable, server_script, path], stdin=-1, stdout=-1, text=True)
    assert server.stdout is not None
    server.stdout.readline()
    launcher = [sys.executable, "-I", "-S", fork_server.__file__, "run", path, script]
    stopped, running = (subprocess.Popen(launcher, stdin=-1, stdout=-1, text=True) for _ in range(2))
    pids = []
    for each in (stopped, running):
        assert each.stdout is not None
        pids.append(int(each.stdout.readline()))
    os.kill(pids[0], signal.SIGSTOP)
    wait_for(lambda: state_of(pids[0]) == "T")
    started = time.monotonic()
    stopped.communicate(timeout=60)
    assert time.monotonic() - started >= 0.05 * (MOST_LOOKS_STOPPED - 1)
    assert not is_alive(pids[0])
    assert running.communicate("goes on\n", timeout=60)[0].strip() == "goes on"
    server.communicate("", timeout=60)
