"""Many mixed requests leave nothing behind: memory, files, threads and series stay as they are."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from lego_serve.process.tree import descendants
from tests.support.chaos.books import check_books
from tests.support.chaos.figures import note
from tests.support.chaos.load import drive
from tests.support.e2e.servers import Server, wait_for_two

REQUESTS = int(os.environ.get("LEGO_CHAOS_REQUESTS", "1000"))
MIX = (
    {"size": "96x96", "num_inference_steps": 2},
    {"size": "128x96", "num_inference_steps": 3, "n": 2},
    {"size": "160x96", "num_inference_steps": 4, "guidance_scale": 4.0, "negative_prompt": "blue"},
    {"size": "96x96", "num_inference_steps": 0},  # refused
    {"size": "96x96", "num_inference_steps": 90, "deadline_ms": 100},  # expires
)
GROWTH_MB = 1.0  # a thousand requests, in any process
FLOOR_MB = 3.0  # an allocator's steps are not growth


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: megabytes that are its own, open files and threads."""

    mb: float
    files: int
    threads: int


def held(pids: Iterable[int]) -> dict[int, Held]:
    """By each of these processes that is there."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            files = len(os.listdir(f"/proc/{pid}/fd"))
            found[pid] = Held(int(status["RssAnon"].split()[0]) / 1024, files, int(status["Threads"]))
    return found


def ours(server: Server) -> list[int]:
    """The processes of a server that are ours to answer for."""
    found = []
    for pid in descendants(server.process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text()
            if "gateway_process" in words or "ray::ServeReplica" in words:
                found.append(pid)
    return found


def refuse_growth(before: Mapping[int, Held], after: Mapping[int, Held], requests: int) -> float:
    """Return the megabytes that the process which grew most has grown.  Fails where one holds more than it may."""
    assert set(after) == set(before), "a process was replaced"
    growth = {pid: after[pid].mb - before[pid].mb for pid in after}
    assert max(growth.values()) <= max(FLOOR_MB, GROWTH_MB * requests / 1000), growth
    assert all(abs(after[pid].files - before[pid].files) <= 4 for pid in after)
    assert all(abs(after[pid].threads - before[pid].threads) <= 2 for pid in after)
    return max(growth.values())


def test_a_process_that_keeps_ten_kilobytes_a_request_is_found() -> None:
    """Or the test below would show nothing."""
    leaks = "import sys\nkept = []\nfor line in sys.stdin: kept.append(bytearray(b'x') * 10_240); print(flush=True)"
    process = subprocess.Popen([sys.executable, "-c", leaks], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        measured = []
        for requests in (10, 1000):
            for _ in range(requests):
                process.stdin.write("request\n")
                process.stdin.flush()
                process.stdout.readline()
            measured.append(held([process.pid]))
        with pytest.raises(AssertionError, match=str(process.pid)):
            refuse_growth(*measured, 1000)
    finally:
        process.kill()
        process.wait()


async def _run(server: Server, requests: int) -> int:
    done = 0
    while done < requests:
        for body in MIX:
            done += len(await drive(server.url, 6, 1.5, {"prompt": "one of few prompts"} | body))
    return done


@pytest.mark.ray
@pytest.mark.chaos
async def test_a_thousand_requests_leave_nothing_behind(crashes: Server) -> None:
    """After the first fifth, in which caches fill; by the thousand, in every process."""
    wait_for_two(crashes)
    await _run(crashes, max(200, REQUESTS // 5))
    check_books(crashes.url)
    before, series = held(ours(crashes)), len(httpx2.get(f"{crashes.url}/metrics", timeout=10).text.splitlines())
    done = await _run(crashes, REQUESTS)
    check_books(crashes.url)
    note("soak", "mixed requests", requests=done, most_mb=refuse_growth(before, held(ours(crashes)), done))
    assert len(httpx2.get(f"{crashes.url}/metrics", timeout=10).text.splitlines()) <= series + 10
