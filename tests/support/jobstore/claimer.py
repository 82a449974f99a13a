"""A gateway as the store of jobs sees one: a process that claims jobs, makes their images, and may be killed."""

import asyncio
import multiprocessing
import os
import random
import secrets
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from lego_serve.core.durable_jobs.record import JobRecord, StoredProgress
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.core.durable_jobs.transitions import Change, complete, progress
from lego_serve.errors import JobEnded, StaleAttempt, StoreUnavailable
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.redis_client import TIMEOUT_S, connect
from lego_serve.jobstore.redis_store import RedisJobStore
from lego_serve.jobstore.sqlite import SqliteJobStore
from lego_serve.jobstore.sweeping import change, lost_claims, sweep

LEASE_S = 1.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def open_store(url: str, timeout_s: float = TIMEOUT_S, lease_s: float = LEASE_S) -> JobStore:
    """Open a Redis store by its URL, or an sqlite store by its path."""
    if url.startswith("unix:"):
        return RedisJobStore(connect(url, timeout_s), lease_s)
    return SqliteJobStore(Path(url), time.time, lease_s)


class Claimer:
    """One such process, and what it wrote down; it ends no image before there is a file ``let``, where one is named."""

    def __init__(self, url: str, folder: Path, let: Path | None = None) -> None:
        self.owner = f"gateway-{secrets.token_hex(8)}"
        arguments = (url, self.owner, folder, let)
        self._process: ForkServerProcess = CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    def kill(self) -> None:
        """End it as the kernel would."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Let it stand still, without its knowing."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)


def _run(url: str, owner: str, folder: Path, let: Path | None) -> None:
    asyncio.run(_claim_and_make(open_store(url), owner, folder, let))


async def _claim_and_make(store: JobStore, owner: str, folder: Path, let: Path | None) -> None:
    log = os.open(folder / f"{owner}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    files = JobFiles(FolderBlobs(folder / "jobs"))
    renewing = asyncio.ensure_future(_beat_and_sweep(store, owner))
    was_away = False
    while not renewing.done():
        try:
            claimed = await lost_claims(store, owner, ()) if was_away else await store.claim(owner, 2)
            was_away = False
            await asyncio.gather(*(_make(store, files, each, let, log) for each in claimed))
        except StoreUnavailable:
            claimed, was_away = (), True
        await asyncio.sleep(0 if claimed else 0.02)
    renewing.result()


async def _make(store: JobStore, files: JobFiles, job: JobRecord, let: Path | None, log: int) -> None:
    """Make a job's image, and write down whether its end was taken."""
    attempt = job.attempt
    try:
        job = await _insist(store, job, lambda held: progress(held, attempt, StoredProgress(50, 2, 4)))
        await asyncio.sleep(random.uniform(0.02, 0.04))
        while let is not None and not let.exists():
            await asyncio.sleep(0.02)
        digest = await asyncio.to_thread(files.write_result, job.id, attempt, 0, job.id.encode())
        await _insist(store, job, lambda held: complete(held, attempt, {"sha256": digest}, time.time()))
        os.write(log, f"ended {job.id} {attempt}\n".encode())
    except (StaleAttempt, JobEnded):
        os.write(log, f"refused {job.id} {attempt}\n".encode())


async def _insist(store: JobStore, job: JobRecord, decide: Callable[[JobRecord], Change]) -> JobRecord:
    """Write until the store answers."""
    while True:
        try:
            return await change(store, job, decide)
        except StoreUnavailable:
            await asyncio.sleep(0.1)


async def _beat_and_sweep(store: JobStore, owner: str) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.1, 0.3))
        try:
            await store.beat(owner)
            await sweep(store)
        except StoreUnavailable:
            continue
