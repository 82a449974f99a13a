"""The threads that do the work on images."""

import asyncio
import itertools
import threading
import time

import pytest
from PIL import Image

from lego_serve.gateway.media.codec import decode_upload
from lego_serve.gateway.media.workers import ImageWorkers
from tests.support.gateway.images import file_of


async def read(workers: ImageWorkers, work, *args, tenant: str = "alpha", weight: float = 1.0):
    """Work in a turn of its own."""
    async with workers.turn(tenant, weight) as thread:
        return await thread.read(work, *args)


async def test_one_upload_and_one_answer_at_a_time() -> None:
    """Answers wait for no upload, and of each kind there is never more than one."""
    workers, lock, most = ImageWorkers(), threading.Lock(), {"read": 0, "write": 0}
    running = dict(most)

    def work(kind: str) -> None:
        with lock:
            running[kind] += 1
            most[kind] = max(most[kind], running[kind])
        time.sleep(0.01)
        with lock:
            running[kind] -= 1

    reading = [read(workers, work, "read") for _ in range(8)]
    await asyncio.gather(*reading, *(workers.write(work, "write") for _ in "ab"))
    assert most == {"read": 1, "write": 1}


async def test_the_event_loop_is_free_while_large_images_are_decoded() -> None:
    """What else it does is late by less than 50 ms of this process's work: in the best of several tries.

    Where the machine does other things, or stops this process, nobody here works while the loop is late.
    """
    workers, data, worst = ImageWorkers(), file_of(Image.new("RGBA", (7000, 7000))), []
    while len(worst) < 20 and min(worst, default=1.0) >= 0.05:
        late, reading = 0.0, asyncio.ensure_future(read(workers, decode_upload, data, 52_000_000))
        while not reading.done():
            before, worked = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.005)
            late = max(late, min(time.perf_counter() - before, time.process_time() - worked) - 0.005)
        await reading
        worst.append(late)
    assert min(worst) < 0.05


async def test_a_request_keeps_its_turn_until_all_its_images_are_read() -> None:
    """Nothing of another comes between, so that no more than one request's images are in memory at full size."""
    workers, done = ImageWorkers(), list[str]()

    async def request(name: str) -> None:
        async with workers.turn("alpha") as thread:
            for step in "12":
                await thread.read(done.append, name + step)
                await asyncio.sleep(0)

    await asyncio.gather(*map(request, "abc"))
    assert done == ["a1", "a2", "b1", "b2", "c1", "c2"]


async def test_a_tenant_with_one_upload_waits_for_none_but_the_one_under_way() -> None:
    """Behind 24 of another tenant it is second; among the uploads of one tenant the order is that of arrival."""
    workers, done, gate = ImageWorkers(), list[str](), threading.Event()

    def work(name: str) -> None:
        gate.wait(60)
        time.sleep(0.002)
        done.append(name)

    names = [f"alpha{i}" for i in range(24)]
    many = [asyncio.ensure_future(read(workers, work, name)) for name in names]
    await asyncio.sleep(0.01)
    one = asyncio.ensure_future(read(workers, work, "beta", tenant="beta"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(one, *many)
    assert done == ["alpha0", "beta", *names[1:]]


async def test_turns_are_by_weight() -> None:
    """Of the first sixteen turns, all as long, of two that want all, the one of three times the weight has twelve."""
    workers, done = ImageWorkers(itertools.count().__next__), list[str]()
    weights = {"heavy": 3.0, "light": 1.0}
    many = [read(workers, done.append, name, tenant=name, weight=weights[name]) for _ in range(16) for name in weights]
    await asyncio.gather(*many)
    assert done[:16].count("heavy") == 12


async def test_an_upload_whose_caller_has_left_is_not_read() -> None:
    """One that waits loses its turn; one under way ends before the next begins, and its tenant pays for it."""
    workers, done, gate = ImageWorkers(), list[str](), threading.Event()

    begun = threading.Event()

    def work(name: str) -> None:
        begun.set()
        gate.wait(60)
        time.sleep(0.01)
        done.append(name)

    tasks = [asyncio.ensure_future(read(workers, work, f"alpha{i}")) for i in range(4)]
    assert await asyncio.to_thread(begun.wait, 60)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0)
    beta = asyncio.ensure_future(read(workers, work, "beta", tenant="beta"))
    await asyncio.sleep(0.01)
    assert done == []
    gate.set()
    await asyncio.gather(beta, *tasks[2:])
    assert done == ["alpha0", "beta", "alpha2", "alpha3"]
    assert [task.cancelled() for task in tasks] == [True, True, False, False]


async def test_a_turn_that_comes_as_its_caller_leaves_goes_on_to_the_next() -> None:
    """Whatever the order of both, and what fails gives its turn back too."""
    workers = ImageWorkers()
    first, second = workers.turn("alpha"), workers.turn("alpha")
    await first.__aenter__()
    waiting = asyncio.ensure_future(second.__aenter__())
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    with pytest.raises(ZeroDivisionError):
        await read(workers, lambda: 1 // 0)
    assert await asyncio.wait_for(read(workers, lambda: 5), 60) == 5
