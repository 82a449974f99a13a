"""Tells whoever watches a durable job how it stands: of jobs that run here at once, of others as the store changes.

A watcher that is slow misses states, never the last one: it is given the latest, not a queue of all.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias

from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.transitions import cancel
from lego_serve.errors import StoreUnavailable

READS_AT_ONCE = 32


JobEvent: TypeAlias = JobRecord | JobPreview


class Watcher:
    """What one watcher has not heard yet: the latest record, and the latest preview of each lane."""

    def __init__(self) -> None:
        self._record: JobRecord | None = None
        self._previews: dict[int, JobPreview] = {}
        self._news = asyncio.Event()

    def put(self, event: JobEvent) -> None:
        """Take an event, in place of an older one of its kind."""
        if isinstance(event, JobPreview):
            self._previews[event.lane] = event
        elif self._record is None or self._record.version < event.version:
            self._record = event
        self._news.set()

    def wake(self) -> None:
        """End a wait for news."""
        self._news.set()

    async def next(self, timeout_s: float | None = None) -> list[JobEvent]:
        """Return what is new, previews first; nothing where nothing is in that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()
        events: list[JobEvent] = [self._previews[lane] for lane in sorted(self._previews)]
        if self._record is not None:
            events.append(self._record)
        self._record, self._previews = None, {}
        return events


class Watchers:
    """The watchers of one gateway, by job; ``on_end`` hears of jobs with a webhook that have ended."""

    def __init__(self) -> None:
        self.on_end: Callable[[], None] = lambda: None
        self._watchers: dict[str, set[Watcher]] = {}
        self._seen: dict[str, JobRecord] = {}  # as last told, by job
        self._shown: dict[str, dict[int, int]] = {}  # the step of the preview last told, by job and lane

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The jobs that somebody watches."""
        return tuple(self._watchers)

    def are_interested_in(self, job_id: str) -> bool:
        """Whether anybody watches a job."""
        return job_id in self._watchers

    def tell(self, event: JobEvent) -> bool:
        """Tell a job's watchers of an event; return whether it is news to any, which alone is told."""
        job_id = event.job_id if isinstance(event, JobPreview) else event.id
        if isinstance(event, JobRecord) and event.request.webhook is not None and event.status.has_ended:
            self.on_end()
        watchers = self._watchers.get(job_id)
        if not watchers:
            return False
        if isinstance(event, JobRecord):
            if job_id in self._seen and self._seen[job_id].version >= event.version:
                return False
            self._seen[job_id] = event
        else:
            shown = self._shown.setdefault(job_id, {})
            if shown.get(event.lane, -1) >= event.step:
                return False
            shown[event.lane] = event.step
        for watcher in watchers:
            watcher.put(event)
        return True

    def tell_deleted(self, job_id: str, now: float) -> None:
        """Tell a job's watchers of the end of a job whose record is gone."""
        if job_id in self._seen:
            self.tell(_deleted(self._seen[job_id], now))

    def wake(self) -> None:
        """Have every watcher look up though there is no news, as the gateway stops."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.wake()

    @contextlib.contextmanager
    def watch(self, record: JobRecord) -> Iterator[Watcher]:
        """Yield a watcher of a job that knows its state already."""
        watcher = Watcher()
        self.tell(record)  # news to those who watch already, perhaps; it is not told again
        self._watchers.setdefault(record.id, set()).add(watcher)
        self._seen.setdefault(record.id, record)
        try:
            yield watcher
        finally:
            self._watchers[record.id].discard(watcher)
            if not self._watchers[record.id]:
                del self._watchers[record.id], self._seen[record.id]
                self._shown.pop(record.id, None)


async def events_of(
    watchers: Watchers,
    record: JobRecord,
    read: Callable[[str], Awaitable[JobRecord | None]],
    ping_s: float,
    wall: Callable[[], float],
) -> AsyncIterator[JobEvent | None]:
    """Yield a job's state now, then what happens to it, and its end last; None for each ``ping_s`` without news.

    ``read`` answers the stored record: what changed since the caller read it was told to nobody.
    """
    with watchers.watch(record) as watcher:
        with contextlib.suppress(StoreUnavailable):
            stored = await read(record.id) or _deleted(record, wall())
            record = record if stored.version < record.version else stored
        yield record
        while not record.status.has_ended:
            events = await watcher.next(ping_s)
            if not events:
                yield None
            for event in events:
                yield event
                if isinstance(event, JobRecord):
                    record = event


def _deleted(known: JobRecord, now: float) -> JobRecord:
    """Return the end of a job that its caller has deleted, which is to cancel it first where it had not ended."""
    return known if known.status.has_ended else cancel(known, now).record
