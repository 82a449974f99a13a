"""Clients that cost little beside the gateway they ask: bytes over sockets, in a process of their own."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gateway.stand_in import TIME_RANGE_S

LENGTH, END = b"content-length:", b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of some seconds: how many a second, and how long they took, in ms."""

    per_s: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, times_s: Sequence[float], seconds: float) -> "Answered":
        """Sum up; raises ValueError where nothing was answered."""
        if not times_s:
            raise ValueError("nothing was answered")
        ordered = sorted(times_s)
        return cls(
            len(ordered) / seconds, 1000 * ordered[len(ordered) // 2], 1000 * ordered[int(0.99 * (len(ordered) - 1))]
        )


def request_bytes(method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request as it goes over the wire, on a connection that stays."""
    content = b"" if body is None else json.dumps(body).encode()
    named = {"host": "127.0.0.1", "content-length": str(len(content)), **(headers or {})}
    if content:
        named["content-type"] = "application/json"
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Return the body of an answer.  Raises RuntimeError for one that is no success."""
    writer.write(request)
    head = await reader.readuntil(END)
    if head[9:10] != b"2":
        raise RuntimeError(head.decode(errors="replace"))
    lines = head.lower().split(b"\r\n")
    length = next(int(line[len(LENGTH) :]) for line in lines if line.startswith(LENGTH))
    return await reader.readexactly(length)


async def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> Answered:
    """Ask again and again over so many connections for some seconds."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < until:
            await ask(reader, writer, request)
            times.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return Answered.of(times, seconds)


async def listen(port: int, path: str, delays_s: list[float]) -> None:
    """Read a job's events to the end, and add the delay of each report of a step since then.

    The first event says how the job stands, by a report that may be as old as the time between two.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("GET", path))
    await reader.readuntil(END)
    since = time.time() % TIME_RANGE_S
    while line := await reader.readline():
        if line.startswith(b"data: "):
            now, job = time.time() % TIME_RANGE_S, json.loads(line[6:])
            if job["status"] != "in_progress":
                break
            if job["eta_s"] is not None and job["eta_s"] >= since:
                delays_s.append(now - job["eta_s"])
    writer.close()
