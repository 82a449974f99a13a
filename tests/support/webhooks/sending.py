"""A sender over a store in memory, whose time a test moves on."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from lego_serve.core.durable_jobs.receivers import ReceiverRules
from lego_serve.core.durable_jobs.record import JobRecord, Webhook
from lego_serve.core.durable_jobs.transitions import cancel
from lego_serve.jobstore.memory import MemoryJobStore
from lego_serve.webhooks.sender import Outcome, WebhookSender
from lego_serve.webhooks.settings import WebhookSettings
from tests.support.jobstore.jobs import new_job

OLD_SECRET = "whsec_" + "b2xk" * 8
NEW_SECRET = "whsec_" + "bmV3" * 8
SECRETS = {"default": (NEW_SECRET,), "other": (OLD_SECRET,)}


@dataclass(slots=True)
class Sending:
    """A running sender, its store, and what it told."""

    store: MemoryJobStore
    sender: WebhookSender
    outcomes: list[Outcome] = field(default_factory=list)
    ahead_s: float = 0.0

    async def end_job(self, number: int, url: str, **changes: Any) -> JobRecord:
        """Put a job that names a receiver, and end it."""
        now = await self.store.now()
        job = await self.store.put(new_job(number, now, webhook=Webhook(url), **changes))
        ended = cancel(job, now)
        await self.store.write(ended)
        self.sender.wake()
        return ended.record

    def move_on(self, seconds: float) -> None:
        """Let time pass in the store: there it does not pass by itself."""
        self.ahead_s += seconds
        self.sender.wake()

    async def told(self, count: int) -> list[Outcome]:
        """Wait for so many outcomes."""
        await until(lambda: len(self.outcomes) >= count)
        return self.outcomes


async def until(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait for something to come about."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def sending(
    *allowed: str, secrets: dict[str, tuple[str, ...]] = SECRETS, timeout_s: float = 60.0, **kwargs: Any
) -> AsyncIterator[Sending]:
    """Run a sender that may send to these hosts besides public ones."""
    settings = WebhookSettings(secrets, ReceiverRules(frozenset(allowed)), "https://images.example", timeout_s)
    began = time.time()
    store = MemoryJobStore(lambda: began + running.ahead_s, lease_s=15)
    told: list[Outcome] = []
    sender = WebhookSender(store, settings, time.time, lambda: 0.0, on_outcome=told.append, **kwargs)
    running = Sending(store, sender, told)
    task = asyncio.create_task(sender.run())
    try:
        yield running
    finally:
        await sender.close()
        await task
