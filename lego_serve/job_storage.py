"""From a configuration to the store of durable jobs and its folder, and the release of what a dead gateway had."""

import asyncio
import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve.configuration.jobs import EMBEDDED, NO_STORE, Jobs
from lego_serve.configuration.schema import Settings
from lego_serve.core.durable_jobs.receivers import ReceiverRules
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.core.durable_jobs.transitions import Retention
from lego_serve.errors import ConfigError, LegoError
from lego_serve.places import data_folder, resolve_path

if TYPE_CHECKING:
    from lego_serve.gateway.jobs.parts import JobStorage
    from lego_serve.jobstore.blobs.port import Blobs
    from lego_serve.jobstore.running.checkpoints import Checkpoints
    from lego_serve.jobstore.running.previews import Previews

log = logging.getLogger("lego_serve.jobs")


def job_folder(settings: Settings, port: int, state: Path) -> Path | None:
    """Return the folder of durable jobs; None where there are none.

    Servers of one data folder have different ports, and so different jobs.  A server that is given any free port finds
    nothing again, so its jobs end with ``state``, its temporary folder.
    """
    if settings.jobs.store == NO_STORE:
        return None
    if settings.jobs.folder is not None:
        return resolve_path(settings, settings.jobs.folder)
    return state / "jobs" if settings.server.port == 0 else data_folder(settings) / "jobs" / str(port)


def check_job_folder(folder: Path) -> None:
    """Make the folder, readable for this user alone.  Raises ConfigError where it cannot be written."""
    probe = folder / f".{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.touch()
        probe.unlink()
    except OSError as error:
        hint = "set `server.data` or `jobs.folder`, or `jobs.store: none`"
        raise ConfigError(f"the folder of durable jobs {folder} cannot be written: {error.strerror}; {hint}") from None


def new_owner() -> str:
    """Return a name for this process that no other process ever had."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"


def open_store(jobs: Jobs, folder: Path) -> JobStore:
    """Open the store of records.  Raises ConfigError for an sqlite database that is not on a disk of this machine."""
    if jobs.store == EMBEDDED:
        from lego_serve.jobstore.sqlite import SqliteJobStore

        return SqliteJobStore(folder / "jobs.db", time.time, jobs.lease_s)
    from lego_serve.jobstore.redis_client import connect
    from lego_serve.jobstore.redis_store import RedisJobStore

    return RedisJobStore(connect(jobs.store), jobs.lease_s)


def open_blobs(jobs: Jobs, folder: Path) -> "Blobs":
    """Open what holds the files of jobs.  Raises ConfigError where what it needs is not installed."""
    if jobs.objects is None:
        from lego_serve.jobstore.blobs.folder import FolderBlobs

        return FolderBlobs(folder)
    try:
        from lego_serve.jobstore.blobs.objects import open_objects
    except ImportError:
        raise ConfigError("`jobs.objects` needs what `pip install 'lego_serve[objects]'` installs") from None
    return open_objects(jobs.objects)


def open_running(jobs: Jobs, blobs: "Blobs", folder: Path) -> "tuple[Checkpoints, Previews]":
    """Open what holds checkpoints and previews of running jobs: a folder, or Redis, with what is too large in files."""
    from lego_serve.jobstore.running.checkpoints import FileCheckpoints
    from lego_serve.jobstore.running.previews import FilePreviews

    if jobs.store == EMBEDDED:
        from lego_serve.jobstore.blobs.folder import FolderBlobs

        return FileCheckpoints(FolderBlobs(folder)), FilePreviews(FolderBlobs(folder))
    from lego_serve.jobstore.redis_client import connect_for_bytes
    from lego_serve.jobstore.running.redis_checkpoints import RedisCheckpoints
    from lego_serve.jobstore.running.redis_previews import RedisPreviews

    checkpoints = RedisCheckpoints(connect_for_bytes(jobs.store), FileCheckpoints(blobs))
    return checkpoints, RedisPreviews(connect_for_bytes(jobs.store))


def open_storage(settings: Settings, folder: Path | None, owner: str) -> "JobStorage | None":
    """Return what a gateway keeps durable jobs with; None where there are none."""
    if folder is None:
        return None
    from lego_serve.gateway.jobs.parts import JobStorage
    from lego_serve.gateway.jobs.settings import JobSettings
    from lego_serve.jobstore.files import JobFiles
    from lego_serve.webhooks.settings import WebhookSettings

    jobs = settings.jobs
    bounds = JobSettings(
        owner=owner,
        max_running=jobs.max_running,
        max_queued=jobs.max_queued,
        max_stored_bytes=jobs.max_stored_bytes,
        checkpoint_s=jobs.checkpoint_s,
        lease_s=jobs.lease_s,
        retention=Retention(jobs.queued_s, jobs.keep_s),
    )
    hooks = jobs.webhooks
    webhooks = WebhookSettings(
        secrets=hooks.secrets,
        rules=ReceiverRules(frozenset(hooks.allowed_hosts), hooks.ports),
        base_url=settings.server.public_url,
        timeout_s=hooks.timeout_s,
    )
    blobs = open_blobs(jobs, folder)
    checkpoints, previews = open_running(jobs, blobs, folder)
    store, files = open_store(jobs, folder), JobFiles(blobs)
    return JobStorage(store, files, checkpoints, previews, bounds, webhooks=webhooks)


def release_jobs(jobs: Jobs, folder: Path, owner: str) -> None:
    """Let others have the jobs of a gateway that has ended, without waiting for its lease."""
    from lego_serve.jobstore.sweeping import release

    async def do() -> None:
        store = open_store(jobs, folder)
        try:
            freed = await release(store, owner)
        finally:
            await store.close()
        await _drop_ended(jobs, folder, [record for record in freed if record.status.has_ended])
        if freed:
            log.info("%d jobs of a gateway that ended go to others", len(freed))

    try:
        asyncio.run(do())
    except LegoError as error:
        log.warning("the jobs of a gateway that ended wait for its lease: %s", error.message)


async def _drop_ended(jobs: Jobs, folder: Path, ended: list[JobRecord]) -> None:
    """Remove what jobs that have just ended need no more."""
    if not ended:
        return
    from lego_serve.jobstore.files import JobFiles
    from lego_serve.jobstore.running.leftovers import drop_running

    blobs = open_blobs(jobs, folder)
    checkpoints, previews = open_running(jobs, blobs, folder)
    try:
        for record in ended:
            await drop_running(record, JobFiles(blobs), checkpoints, previews)
    finally:
        await checkpoints.close()
        await previews.close()
