"""A thread of its own with a connection to the sqlite database: work goes in, answers come back to the event loop.

SQLite comes from ``apsw``, because the one of a distribution may corrupt a database in WAL mode that several processes
write (SQLite before 3.51.3).  Work that waits when the thread comes to it goes into one transaction: a commit costs
more than what is in it.  An answer is given only after the commit.
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import apsw

from lego_serve.errors import StoreUnavailable

T = TypeVar("T")
BUSY_S = 5.0  # how long to wait for other processes' transactions, each of which takes a millisecond
BUSY_SLEEP_S = 0.001
CHECKPOINT_EVERY_S = 1.0
WAL_LIMIT_BYTES = 64 << 20
BATCH = 64
OUR_FAULTS = (apsw.SQLError, apsw.MisuseError, apsw.BindingsError, apsw.ConstraintError, apsw.MismatchError)


@dataclass(frozen=True, slots=True)
class _Work:
    do: Callable[[apsw.Connection], Any]
    writes: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def answer(self, value: Any, error: Exception | None) -> None:
        """Answer whoever waits; nobody does where the loop has ended meanwhile."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set, value, error)

    def _set(self, value: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class SqliteThread:
    """One connection, and the thread that alone uses it; ``set_up`` makes the tables, in a transaction of its own."""

    def __init__(self, path: Path, set_up: Callable[[apsw.Connection], object]) -> None:
        self._path, self._set_up = path, set_up
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._checkpointed_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="lego-jobs-sqlite", daemon=True)
        self._thread.start()

    async def read(self, do: Callable[[apsw.Connection], T]) -> T:
        """Return what a query answers.  Raises StoreUnavailable."""
        return await self._ask(do, writes=False)

    async def write(self, do: Callable[[apsw.Connection], T]) -> T:
        """Return what a change answers, once it is committed.  Raises StoreUnavailable."""
        return await self._ask(do, writes=True)

    async def close(self) -> None:
        """Finish what waits and close the connection."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _ask(self, do: Callable[[apsw.Connection], T], *, writes: bool) -> T:
        if not self._thread.is_alive():
            raise StoreUnavailable("The job database is closed.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Work(do, writes, loop, future))
        return await future

    def _run(self) -> None:
        db: apsw.Connection | None = None
        is_open = True
        while is_open:
            batch, is_open = self._next_batch()
            try:
                db = db or self._connect()
                answers = _carry_out(db, batch)
            except (apsw.Error, OSError) as error:
                answers = [(None, _as_unavailable(error))] * len(batch)
            for work, (value, failure) in zip(batch, answers, strict=True):
                work.answer(value, failure)
            if db is not None:
                self._checkpoint(db)
        if db is not None:
            db.close()

    def _next_batch(self) -> tuple[list[_Work], bool]:
        """Wait for work and return what there is; False once the thread is to end."""
        first = self._queue.get()
        batch: list[_Work] = []
        while first is not None:
            batch.append(first)
            if len(batch) == BATCH:
                return batch, True
            try:
                first = self._queue.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _connect(self) -> apsw.Connection:
        """Open the database; when several processes create it at once, SQLite refuses some without asking the handler.

        The change to a log takes a lock that is held already a step further, where waiting might last for ever.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # prompts and secrets: for this user alone
        until = time.monotonic() + BUSY_S
        while True:
            db = apsw.Connection(str(self._path))
            try:
                self._prepare(db)
                return db
            except BaseException as error:
                db.close()
                if not isinstance(error, apsw.BusyError) or time.monotonic() > until:
                    raise
                time.sleep(BUSY_SLEEP_S * random.random())

    def _prepare(self, db: apsw.Connection) -> None:
        db.set_busy_handler(_wait_a_little)
        db.pragma("journal_mode", "WAL")
        db.pragma("synchronous", "NORMAL")
        db.pragma("journal_size_limit", WAL_LIMIT_BYTES)
        db.wal_autocheckpoint(0)
        db.execute("BEGIN IMMEDIATE")
        self._set_up(db)
        db.execute("COMMIT")

    def _checkpoint(self, db: apsw.Connection) -> None:
        """Once a second, move what was committed from the log to the database; power loss may cost the log's end."""
        now = time.monotonic()
        if now - self._checkpointed_s >= CHECKPOINT_EVERY_S:
            self._checkpointed_s = now
            with suppress(apsw.Error):  # another process is at it, or the disk is full: the next will do it
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def _carry_out(db: apsw.Connection, batch: Sequence[_Work]) -> list[tuple[Any, Exception | None]]:
    """Do the work in one transaction; what fails is undone alone."""
    if not any(work.writes for work in batch):
        return [_outcome(work, db) for work in batch]
    db.execute("BEGIN IMMEDIATE")
    try:
        answers = []
        for work in batch:
            db.execute("SAVEPOINT work")
            answers.append(_outcome(work, db))
            db.execute("RELEASE work" if answers[-1][1] is None else "ROLLBACK TO work; RELEASE work")
        db.execute("COMMIT")
        return answers
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _outcome(work: _Work, db: apsw.Connection) -> tuple[Any, Exception | None]:
    try:
        return work.do(db), None
    except OUR_FAULTS as error:
        return None, error
    except apsw.Error:
        raise  # the disk's or the lock's: the whole transaction is lost
    except Exception as error:  # noqa: BLE001 - whoever asked hears of it
        return None, error


def _wait_a_little(calls: int) -> bool:
    """Sleep a random while and try again: SQLite's own handler sleeps up to 100 ms, and so starves whoever waited."""
    time.sleep(BUSY_SLEEP_S * random.random())
    return calls < BUSY_S / (BUSY_SLEEP_S / 2)


def _as_unavailable(error: Exception) -> Exception:
    if isinstance(error, OUR_FAULTS):
        return error
    reason = "is full" if isinstance(error, apsw.FullError) else "cannot be read or written"
    return StoreUnavailable(f"The job database {reason} ({type(error).__name__}); try again later.")
