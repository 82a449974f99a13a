"""Gateways in processes of their own over one store, without Ray, which are killed or stand still."""

import asyncio
import logging
import multiprocessing
import os
import random
import secrets
import signal
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from benchmarks.gateway.stand_in import InstantRunner, serve
from lego_serve.cli.demo import free_port
from lego_serve.core.durable_jobs.receivers import ReceiverRules
from lego_serve.core.jobs.job import Job, JobProgress, JobResult
from lego_serve.core.jobs.ports import CheckpointKeeper, OnProgress
from lego_serve.gateway.jobs.parts import JobStorage
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.webhooks import sender
from lego_serve.webhooks.settings import WebhookSettings
from tests.support.jobstore import claimer

LEASE_S = claimer.LEASE_S
JOB_S = (0.05, 0.3)
STEPS = 4
SENDING_S = 2.0  # a message that a killed gateway had taken is sent by another after that; a minute in production
SECRETS: Mapping[str, tuple[str, ...]] = {"default": ("whsec_" + "b2xk" * 8,)}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([claimer.__name__, __name__])


class SlowRunner(InstantRunner):
    """Takes a little while for each job, and reports its steps."""

    async def run(
        self, job: Job, on_progress: OnProgress | None = None, checkpoints: CheckpointKeeper | None = None
    ) -> JobResult:
        """Answer black images after some steps."""
        pause_s = random.uniform(*JOB_S) / STEPS
        for step in range(1, STEPS + 1):
            await asyncio.sleep(pause_s)
            if on_progress is not None:
                on_progress(JobProgress(0, step, STEPS, pause_s * (STEPS - step)))
        return await super().run(job)


class KillableGateway:
    """One such process.  ``receiver`` is the host and port that webhooks may go to."""

    def __init__(self, store: str, folder: Path, receiver: str = "") -> None:
        self.owner, self.port = f"gateway-{secrets.token_hex(8)}", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = (store, self.owner, self.port, folder, receiver)
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
        """Let it go on, unless it was killed meanwhile."""
        if self._process.is_alive():
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGCONT)


def _run(store: str, owner: str, port: int, folder: Path, receiver: str) -> None:
    logging.disable(logging.WARNING)  # that a lease had ended, or that a store was away, is what the tests are about
    sender.HOLD_S = SENDING_S
    settings = JobSettings(
        owner, max_running=8, max_queued=100_000, lease_s=LEASE_S, checkpoint_s=0.2, progress_s=0.02, sweep_s=0.2
    )
    webhooks = WebhookSettings(SECRETS, ReceiverRules(frozenset({receiver} - {""})))
    storage = JobStorage.in_folder(claimer.open_store(store), folder, settings, wall=time.time, webhooks=webhooks)
    serve(port, SlowRunner(), storage)
