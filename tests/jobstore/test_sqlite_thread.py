"""The thread that has the sqlite database: transactions, what fails in them, and a disk that is full."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from lego_serve.errors import StoreUnavailable
from lego_serve.jobstore.sqlite_thread import SqliteThread

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY, content BLOB)"


def set_up(db: apsw.Connection) -> None:
    """Make the table."""
    db.execute(SCHEMA)


@pytest.fixture
async def thread(tmp_path: Path) -> AsyncIterator[SqliteThread]:
    """A new database."""
    thread = SqliteThread(tmp_path / "new" / "things.db", set_up)
    yield thread
    await thread.close()


def add(name: str, size: int = 1) -> object:
    """A change that adds a row."""
    return lambda db: db.execute("INSERT INTO things VALUES (?, zeroblob(?))", (name, size)) and name


async def count(thread: SqliteThread) -> int:
    """How many rows there are."""
    return await thread.read(lambda db: db.execute("SELECT count(*) FROM things").get)


async def test_what_fails_takes_nothing_else_along(thread: SqliteThread) -> None:
    """Changes that wait at once share a transaction; each is undone alone."""

    def add_and_fail(db: apsw.Connection) -> None:
        db.execute("INSERT INTO things VALUES ('x', '')")
        raise ValueError("on second thoughts")

    work = [thread.write(add("a")), thread.write(add_and_fail), thread.write(add("a")), thread.write(add("b"))]
    answers = await asyncio.gather(*work, return_exceptions=True)
    assert [answers[0], answers[3]] == ["a", "b"]
    assert isinstance(answers[1], ValueError)
    assert isinstance(answers[2], apsw.ConstraintError)
    assert await count(thread) == 2


async def test_a_full_disk_refuses_and_goes_on_later(thread: SqliteThread) -> None:
    """What was committed stays, and reads go on."""
    await thread.write(add("a"))
    pages = await thread.read(lambda db: db.pragma("page_count"))
    await thread.read(lambda db: db.pragma("max_page_count", pages + 2))
    with pytest.raises(StoreUnavailable, match="is full"):
        await thread.write(add("b", 1 << 20))
    assert await count(thread) == 1
    await thread.read(lambda db: db.pragma("max_page_count", 1 << 20))
    await thread.write(add("b", 1 << 20))
    assert await count(thread) == 2


async def test_the_database_is_this_users_alone(thread: SqliteThread, tmp_path: Path) -> None:
    """It holds prompts."""
    await thread.write(add("a"))
    for file in (tmp_path / "new").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_after_its_end_the_thread_answers_that_it_has_ended(tmp_path: Path) -> None:
    """Rather than never."""
    thread = SqliteThread(tmp_path / "things.db", set_up)
    await thread.write(add("a"))
    await thread.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await count(thread)


async def test_a_path_that_cannot_be_opened_is_told_to_whoever_asks(tmp_path: Path) -> None:
    """And tried again each time."""
    thread = SqliteThread(tmp_path / "file" / "things.db", set_up)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreUnavailable, match="cannot be read or written"):
        await count(thread)
    (tmp_path / "file").unlink()
    assert await count(thread) == 0
    await thread.close()


async def test_processes_that_create_a_database_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """SQLite refuses the change to a log without asking the handler; one in twelve was told that the store is away."""
    for attempt in range(15):
        threads = [SqliteThread(tmp_path / f"{attempt}.db", set_up) for _ in range(4)]
        await asyncio.gather(*(thread.write(add(str(number))) for number, thread in enumerate(threads)))
        assert [await count(thread) for thread in threads] == [4] * 4
        await asyncio.gather(*(thread.close() for thread in threads))
