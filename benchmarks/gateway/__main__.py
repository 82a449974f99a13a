"""What one gateway carries without models: ``python -m benchmarks.gateway [--quick]``.

The gateway is a process on a core of its own, the clients are on another.  Small requests are images of 96 x 96, black
at once; submissions are the same requests as durable jobs, in sqlite, in turns with synchronous ones.  Beside the rate
stands the gateway's processor time for each request, which says what one core carries though other work is on it.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.gateway.clients import Answered, ask, closed_loop, listen, request_bytes
from benchmarks.gateway.stand_in import EVENT_STEPS

BODY = {"prompt": "a", "size": "96x96"}
IMAGES = "/v1/images/generations"
SMALL = {"liveness": request_bytes("GET", "/health/live"), "an image": request_bytes("POST", IMAGES, BODY)}
console = Console(width=140)


@dataclass(frozen=True, slots=True)
class Served:
    """The gateway's port, and its process."""

    port: int
    process_id: int

    @property
    def used_s(self) -> float:
        """The processor time that it has taken, all its threads together."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system


@contextmanager
def gateway() -> Iterator[Served]:
    """A gateway on the first core, its clients on the others."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="lego-gateway-") as folder:
        command = [sys.executable, "-m", "benchmarks.gateway.stand_in", str(port), folder]
        process = subprocess.Popen(command)
        os.sched_setaffinity(process.pid, cores[:1])
        os.sched_setaffinity(0, cores[1:] or cores)
        try:
            asyncio.run(_until_up(port))
            yield Served(port, process.pid)
        finally:
            process.terminate()
            process.wait()
            os.sched_setaffinity(0, cores)


async def _until_up(port: int, limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await ask(reader, writer, SMALL["liveness"])
            writer.close()
            return
        await asyncio.sleep(0.2)
    raise TimeoutError("the gateway does not answer")


async def submissions(port: int, rounds: int) -> tuple[float, float]:
    """Return the median ms of a synchronous image and of a submission, taken in turns over one connection each."""
    plain, durable = SMALL["an image"], request_bytes("POST", IMAGES, BODY, {"prefer": "respond-async"})
    times: dict[bytes, list[float]] = {plain: [], durable: []}
    connections = {each: await asyncio.open_connection("127.0.0.1", port) for each in times}
    for _ in range(rounds):
        for each, (reader, writer) in connections.items():
            started = time.perf_counter()
            await ask(reader, writer, each)
            times[each].append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(0.01)  # a submission's job runs meanwhile
    for _, writer in connections.values():
        writer.close()
    return median(times[plain]), median(times[durable])


async def streams(port: int, count: int) -> Answered:
    """Return the delays of events over so many streams, each of a job of its own."""
    body = BODY | {"num_inference_steps": EVENT_STEPS}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    submit = request_bytes("POST", IMAGES, body, {"prefer": "respond-async"})
    paths = []
    for _ in range(count):
        answer = await ask(reader, writer, submit)
        paths.append("/v1/" + json.loads(answer)["urls"]["events"].split("/v1/")[1])
    delays: list[float] = []
    started = time.monotonic()
    await asyncio.gather(*(listen(port, path, delays) for path in paths))
    return Answered.of(delays, time.monotonic() - started)


def main(quick: Annotated[bool, typer.Option(help="A few seconds of each.")] = False) -> None:
    """Print what one gateway carries."""
    seconds, rounds, count = (2.0, 50, 50) if quick else (15.0, 500, 500)
    console.print(f"load {os.getloadavg()[0]:.1f} before")
    with gateway() as served:
        port = served.port
        for name, request in SMALL.items():
            asyncio.run(closed_loop(port, request, 16, 1.0))  # warm
            before_s = served.used_s
            got = asyncio.run(closed_loop(port, request, 16, seconds))
            each_us = 1e6 * (served.used_s - before_s) / (got.per_s * seconds)
            took = f"{each_us:.0f} us of processor time each, {1e6 / each_us:.0f} in a second of it"
            console.print(f"{name}: {got.per_s:.0f}/s, p50 {got.p50_ms:.1f} ms, p99 {got.p99_ms:.1f} ms; {took}")
        plain_ms, durable_ms = asyncio.run(submissions(port, rounds))
        added = f"{durable_ms - plain_ms:+.2f} ms"
        console.print(f"an image {plain_ms:.2f} ms, its submission {durable_ms:.2f} ms ({added}) at the median")
        told = asyncio.run(streams(port, count))
        console.print(
            f"{count} streams: {told.per_s:.0f} events/s, p50 {told.p50_ms:.0f} ms, p99 {told.p99_ms:.0f} ms late"
        )
    console.print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    typer.run(main)
