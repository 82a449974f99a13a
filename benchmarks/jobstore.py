"""What the stores of durable jobs carry: ``python -m benchmarks.jobstore [--quick] [--json FILE] [--markdown FILE]``.

Several processes, as gateways are, claim and complete all jobs that are queued.  Each does so in two ways: one job at a
time, and as a gateway does, which claims a few at once and ends them as they come.  sqlite lies in a temporary folder;
``--folder`` says where, for its disk is part of the result.  Redis is started here, with an append-only file.
"""

import asyncio
import json
import multiprocessing
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lego_serve.core.durable_jobs.ids import RANDOM_BYTES, job_id
from lego_serve.core.durable_jobs.record import JobRequest, Webhook
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.core.durable_jobs.transitions import complete, submit
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.redis_store import RedisJobStore
from lego_serve.jobstore.sqlite import SqliteJobStore

LEASE_S = 15.0
PROMPT = "a lighthouse on a cliff at dusk, oil on canvas, " * 30  # records of 2 KB
FEEDERS = 32
PATIENCE_S = 10.0  # a gateway gives up sooner; here a disk that is slow to sync is to show in the longest claim
HOOK = Webhook("https://hooks.example/jobs")
console = Console(width=160)


@dataclass(frozen=True, slots=True)
class Row:
    """What one store did in one way."""

    store: str
    claimed_at_once: int
    processes: int
    jobs: int
    submits_per_s: float
    jobs_per_s: float  # claimed and completed
    operations_per_s: float  # claims and completions
    claim_p50_ms: float
    claim_p99_ms: float
    claim_longest_ms: float


def open_store(url: str) -> JobStore:
    """Open a Redis store by its URL, or an sqlite store by its path."""
    if url.startswith("unix:"):
        return RedisJobStore(connect(url, PATIENCE_S), LEASE_S)
    return SqliteJobStore(Path(url), time.time, LEASE_S)


async def fill(store: JobStore, jobs: int) -> float:
    """Submit jobs, several at a time; return how many a second."""

    async def feed(count: int) -> None:
        for _ in range(count):
            request = JobRequest("/v1/images/generations", "lego-tiny", "tiny", {"prompt": PROMPT}, 1, webhook=HOOK)
            await store.put(submit(job_id(time.time(), secrets.token_bytes(RANDOM_BYTES)), request, time.time()))

    started = time.perf_counter()
    await asyncio.gather(*(feed(jobs // FEEDERS) for _ in range(FEEDERS)))
    return jobs / (time.perf_counter() - started)


async def drain(url: str, at_once: int, all_ready: Barrier) -> dict[str, Any]:
    """Claim and complete jobs until there are none, all processes from one moment on; return what they took."""
    store = open_store(url)
    await store.beat(owner := secrets.token_hex(8))
    await asyncio.to_thread(all_ready.wait)
    started_at, claims_s, done = time.time(), list[float](), 0
    while True:
        asked = time.perf_counter()
        claimed = await store.claim(owner, at_once)
        claims_s.append(time.perf_counter() - asked)
        if not claimed:
            await store.close()
            return {"claims_s": claims_s[:-1], "done": done, "started_at": started_at, "ended_at": time.time()}
        ends = [complete(job, job.attempt, {"data": [{"url": job.id}]}, time.time()) for job in claimed]
        done += sum(await asyncio.gather(*(store.write(end) for end in ends)))


def work(url: str, at_once: int, all_ready: Barrier, answers: "multiprocessing.Queue[dict[str, Any]]") -> None:
    """Be one of the processes."""
    answers.put(asyncio.run(drain(url, at_once, all_ready)))


async def _filled(url: str, jobs: int) -> float:
    store = open_store(url)
    try:
        return await fill(store, jobs)
    finally:
        await store.close()


def measure(name: str, url: str, at_once: int, processes: int, jobs: int) -> Row:
    """Fill a store and have it emptied."""
    submits_per_s = asyncio.run(_filled(url, jobs))
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[dict[str, Any]] = context.Queue()
    all_ready = context.Barrier(processes)
    workers = [context.Process(target=work, args=(url, at_once, all_ready, answers)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    done = sum(each["done"] for each in found)
    if done != jobs:
        raise RuntimeError(f"{name} lost jobs: {jobs} were submitted, {done} completed")
    took_s = max(each["ended_at"] for each in found) - min(each["started_at"] for each in found)
    claims_s = sorted(claim for each in found for claim in each["claims_s"])
    return Row(
        name, at_once, processes, jobs, submits_per_s, jobs / took_s, (len(claims_s) + jobs) / took_s,
        1000 * statistics.median(claims_s), 1000 * claims_s[int(0.99 * len(claims_s))], 1000 * claims_s[-1],
    )  # fmt: skip


@contextmanager
def running_redis() -> Iterator[str]:
    """Start a redis-server and yield its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise typer.BadParameter("redis-server is not installed; leave Redis out with --store sqlite")
    with tempfile.TemporaryDirectory(prefix="lego-redis-") as folder:
        path = Path(folder) / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not _accepts(path) and server.poll() is None:
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            server.kill()
            server.wait()


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return True
    return False


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    head = "| store | claimed at once | processes | jobs | submits/s | claimed and completed/s | operations/s |"
    head += " claim p50 | p99 | longest |"
    lines = [head, "|---" * 10 + "|"]
    for row in rows:
        lines.append(
            f"| {row.store} | {row.claimed_at_once} | {row.processes} | {row.jobs} | {row.submits_per_s:.0f} "
            f"| {row.jobs_per_s:.0f} | {row.operations_per_s:.0f} | {row.claim_p50_ms:.2f} ms "
            f"| {row.claim_p99_ms:.1f} ms | {row.claim_longest_ms:.0f} ms |"
        )
    return "\n".join(lines)


def main(
    quick: Annotated[bool, typer.Option(help="640 jobs rather than 16,000.")] = False,
    store: Annotated[str, typer.Option(help="sqlite, redis or both.")] = "both",
    processes: Annotated[int, typer.Option(min=1, help="How many claim at once.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="Where the sqlite database lies.")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
) -> None:
    """Measure the stores and print the table."""
    jobs = 640 if quick else 16_000
    load, rows = os.getloadavg()[0], []
    for at_once in (1, 8):
        if store in ("sqlite", "both"):
            with tempfile.TemporaryDirectory(prefix="lego-sqlite-", dir=folder) as path:
                rows.append(measure("sqlite", f"{path}/jobs.db", at_once, processes, jobs))
        if store in ("redis", "both"):
            with running_redis() as url:
                rows.append(measure("Redis", url, at_once, processes, jobs))
    console.print(f"{os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    console.print(table(rows), markup=False)
    if to is not None:
        to.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if markdown is not None:
        markdown.write_text(table(rows) + "\n")


if __name__ == "__main__":
    typer.run(main)
