"""The event loop of these tests: its clock goes on while it waits or works, and stands while it is held up."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.clocks import SteadyLoop

CODE = """
import asyncio, os, signal, sys
from tests.support.clocks import SteadyLoop

async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.timeout(0.5):
        os.kill(os.getpid(), signal.SIGSTOP)
        print("heard", (await reader.readline()).decode(), end="", flush=True)

with asyncio.Runner(loop_factory=SteadyLoop) as runner:
    runner.run(main())
"""


async def test_it_is_the_loop_of_these_tests() -> None:
    """Or they would fail on a busy machine."""
    assert isinstance(asyncio.get_running_loop(), SteadyLoop)


async def test_a_pause_takes_its_time_and_one_after_another() -> None:
    """Never less than the machine's clock says, and in their order."""
    loop, done = asyncio.get_running_loop(), list[str]()

    async def note(seconds: float, name: str) -> None:
        await asyncio.sleep(seconds)
        done.append(name)

    began, machine = loop.time(), time.monotonic()
    await asyncio.gather(note(0.06, "late"), note(0.02, "soon"))
    assert done == ["soon", "late"]
    assert loop.time() - began >= 0.06
    assert time.monotonic() - machine >= 0.06


async def test_work_counts_and_standing_still_does_not() -> None:
    """A tenth of a second of a processor, and half a second of nothing."""
    loop = asyncio.get_running_loop()
    began, worked = loop.time(), time.thread_time()
    while time.thread_time() - worked < 0.1:
        pass
    await asyncio.sleep(0)
    assert loop.time() - began >= 0.1
    began, worked = loop.time(), time.thread_time()
    time.sleep(0.5)
    await asyncio.sleep(0)
    assert loop.time() - began < 0.1 + time.thread_time() - worked


def test_a_process_that_was_stopped_has_its_time_left() -> None:
    """What came meanwhile is heard, though by the machine's clock it was too late."""
    root = Path(__file__).parents[3]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CODE], stdin=pipe, stdout=pipe, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert os.waitid(os.P_PID, process.pid, os.WSTOPPED) is not None
        time.sleep(1.0)
        process.stdin.write("a line\n")
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "heard a line\n"
