"""Sends the messages of a store's outbox, beside whatever else a gateway does.

Every gateway runs one sender, and each message is taken by one of them at a time.  A message is removed after it was
taken in, so a gateway that ends between the two has it sent again, by another and under the same id.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

from lego_serve.core.durable_jobs.outbox import OutboxRow, after_failure
from lego_serve.core.durable_jobs.receivers import ReceiverRefused
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.core.durable_jobs.webhook_turns import Key, WebhookTurns
from lego_serve.errors import StoreUnavailable
from lego_serve.task_end import end_tasks
from lego_serve.webhooks.client import Resolver, WebhookClient, look_up
from lego_serve.webhooks.message import message_headers, message_text
from lego_serve.webhooks.settings import WebhookSettings

log = logging.getLogger("lego_serve.webhooks")
BATCH = 32
HOLD_S = 60.0  # longer than any try takes, or another gateway would send the message as well
POLL_S = 1.0
GRACE_S = 5.0  # for what is being sent as the gateway ends
GONE = 410


class Outcome(StrEnum):
    """What became of one try to send a message."""

    DELIVERED = "delivered"
    GONE = "gone"  # the receiver wants no more of it
    POSTPONED = "postponed"
    GIVEN_UP = "given_up"


class WebhookSender:
    """The sender of one gateway.  ``clock`` is the time of day in seconds, ``chance`` a random number from 0 to 1."""

    def __init__(
        self,
        store: JobStore,
        settings: WebhookSettings,
        clock: Callable[[], float],
        chance: Callable[[], float],
        *,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
        resolve: Resolver = look_up,
    ) -> None:
        self._store, self._settings = store, settings
        self._clock, self._chance, self._on_outcome = clock, chance, on_outcome
        self._client = WebhookClient(settings.rules, settings.timeout_s, resolve)
        self._turns = WebhookTurns()
        self._tries: set[asyncio.Task[None]] = set()
        self._woken, self._stopped = asyncio.Event(), asyncio.Event()
        self._stopped.set()
        self._is_closing = False
        self._told = ""  # the fault of the outbox that was logged last: it is met again at every look

    def wake(self) -> None:
        """Look into the outbox now: a job has ended.  Otherwise that is found within POLL_S."""
        self._woken.set()

    async def run(self) -> None:
        """Send until ``close``."""
        self._stopped.clear()
        try:
            while not self._is_closing:
                self._woken.clear()
                if not await self._begin_some():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await self._woken.wait()
        finally:
            self._stopped.set()

    async def close(self) -> None:
        """Take no more, give what is being sent a little time, and leave the rest to other gateways."""
        self._is_closing = True
        self._woken.set()
        await self._stopped.wait()
        if self._tries:
            _, late = await asyncio.wait(self._tries, timeout=GRACE_S)
            await end_tasks(late)
        await self._client.close()

    async def _begin_some(self) -> bool:
        """Begin to send what is due; whether there may be more."""
        try:
            has_more = await self._begin_due()
        except StoreUnavailable:
            return False  # what was taken comes again when its hold is over
        except Exception as error:
            if repr(error) != self._told:
                self._told = repr(error)
                log.exception("the outbox could not be read")  # such as a message of a later version
            return False
        self._told = ""
        return has_more

    async def _begin_due(self) -> bool:
        limit = min(BATCH, self._turns.free)
        if not limit:
            return False  # woken by whoever gives a place back
        rows = await self._store.take_outbox(limit, HOLD_S)
        now = await self._store.now()
        for row in rows:
            await self._begin(row, now)
        return bool(rows)

    async def _begin(self, row: OutboxRow, now: float) -> None:
        key = self._key(row)
        if self._is_closing:
            await self._store.postpone(row)
        elif self._turns.begin(key):
            trying = asyncio.create_task(self._send(row, key))
            self._tries.add(trying)
            trying.add_done_callback(self._tries.discard)
        else:
            await self._store.postpone(replace(row, due_at=self._turns.put_off(key, now)))

    def _key(self, row: OutboxRow) -> Key:
        try:
            receiver = self._settings.rules.check(row.url)
        except ReceiverRefused:  # by an operator who allows less now; sending it fails
            return row.tenant, ""
        return row.tenant, f"{receiver.host} {receiver.port}"

    async def _send(self, row: OutboxRow, key: Key) -> None:
        """Try a message once and write down what became of it; as it was where the gateway ends meanwhile."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            status, why = await self._try(row)
            await self._conclude(row, status, why)
        except StoreUnavailable:
            log.warning("webhook %s: the store is away; it is sent again after that", row.id)
        except asyncio.CancelledError:
            with suppress(StoreUnavailable):
                await self._store.postpone(row)
            raise
        finally:
            self._turns.end(key, loop.time() - started, self._clock())
            self._woken.set()

    async def _try(self, row: OutboxRow) -> tuple[int | None, str]:
        """Return the status of the answer and a word for the log; no status where there was no answer."""
        secrets: Sequence[str] = self._settings.secrets.get(row.tenant, ())
        if not secrets:
            return None, "no_secret"
        text = message_text(row, self._settings.base_url)
        try:
            headers = message_headers(row, text, secrets, self._clock())
            status = await self._client.post(row.url, headers, text.encode())
        except Exception as error:  # whatever it is, the message is tried again
            return None, type(error).__name__
        return status, str(status)

    async def _conclude(self, row: OutboxRow, status: int | None, why: str) -> None:
        """Remove a message that was taken in, is not wanted or was tried often enough; put off any other."""
        later = None
        if status is not None and 200 <= status < 300:
            outcome = Outcome.DELIVERED
        elif status == GONE:
            outcome = Outcome.GONE
        else:
            later = after_failure(row, await self._store.now(), self._chance())
            outcome = Outcome.GIVEN_UP if later is None else Outcome.POSTPONED
        await (self._store.settle(row.id) if later is None else self._store.postpone(later))
        log.info("webhook %s, try %d: %s (%s)", row.id, row.tries + 1, outcome, why)
        self._on_outcome(outcome)
