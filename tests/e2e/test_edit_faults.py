"""Edits that lose their replica, or what was kept of their template: each ends with the bits it always has."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.zoo.world.edit_tasks import EditTask, held_out_edits
from tests.support.e2e.images import mask_file, pixels, png
from tests.support.e2e.servers import TEMPLATE_BYTES, Server, backbones, wait_for_two
from tests.support.e2e.template_stats import settle

pytestmark = pytest.mark.ray
SIDE, STEPS, SEEDS = 128, 60, range(2)
KILLS = int(os.environ.get("LEGO_CHAOS_KILLS", "1"))
Asked = tuple[EditTask, int]


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    """Edits of four templates, two of each."""
    return [(task, seed) for seed in SEEDS for task in held_out_edits(4, SIDE)]


@pytest.fixture(scope="module")
def undisturbed(crashes: Server, asked: list[Asked]) -> list[np.ndarray]:
    """Their images, one after the other."""
    return [pixels(edited(crashes, each).json()["data"][0]) for each in asked]


def edited(server: Server, asked: Asked, **fields: str) -> httpx2.Response:
    """One edit, however it ends."""
    task, seed = asked
    files = {"image": png(task.template.numpy()), "mask": mask_file(task.mask.numpy())}
    data = {"prompt": task.after.text, "seed": str(seed), "num_inference_steps": str(STEPS)} | fields
    return httpx2.post(f"{server.url}/v1/images/edits", files=files, data=data, timeout=300)


def check(answers: list[httpx2.Response], wanted: list[np.ndarray]) -> None:
    """Each is the image it always is."""
    for answer, image in zip(answers, wanted, strict=True):
        assert answer.status_code == 200, answer.text
        assert np.array_equal(pixels(answer.json()["data"][0]), image)


def worked(pid: int) -> int:
    """Ticks of a processor that a process has had."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def busiest(server: Server) -> int:
    """The backbone replica that works hardest now."""
    before = {pid: worked(pid) for pid in backbones(server)}
    time.sleep(0.3)
    return max(before, key=lambda pid: worked(pid) - before[pid])


def metric(server: Server, name: str) -> float:
    """What /metrics says of lego-tiny."""
    page = httpx2.get(f"{server.url}/metrics", timeout=30).text
    [value] = re.findall(rf'^lego_serve_{name}\{{model="lego-tiny"\}} (\S+)$', page, re.M)
    return float(value)


def test_entries_that_go_in_the_middle_of_edits_change_nothing(
    crashes: Server, asked: list[Asked], undisturbed: list[np.ndarray]
) -> None:
    """Edits of more templates than there is room for, all at once: computed again, and counted."""
    before = metric(crashes, "template_evictions_total")
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda each: edited(crashes, each), asked))
    check(answers, undisturbed)
    assert sum(answer.json()["lego"]["reuse"]["evicted"] for answer in answers) > STEPS
    assert metric(crashes, "template_evictions_total") - before > STEPS
    settle(crashes, entries=2)
    assert metric(crashes, "template_budget_bytes") == 2 * TEMPLATE_BYTES
    assert 0 < metric(crashes, "template_used_bytes") <= 2 * TEMPLATE_BYTES
    assert metric(crashes, "template_entries") >= 2


def test_a_replica_killed_in_the_middle_of_edits_costs_no_edit_and_no_bit(
    crashes: Server, asked: list[Asked], undisturbed: list[np.ndarray]
) -> None:
    """kill -9 of the one that works hardest, again and again; and later edits find all as it was."""
    in_the_middle = 0
    for _ in range(KILLS + 4):  # where this process is held up, a kill may come when the edits have ended
        wait_for_two(crashes)
        with ThreadPoolExecutor(len(asked)) as pool:
            running_now = [pool.submit(edited, crashes, each) for each in asked]
            time.sleep(0.7)
            victim = busiest(crashes)
            os.kill(victim, signal.SIGKILL)
            ended = sum(future.done() for future in running_now)
            answers = [future.result() for future in running_now]
        check(answers, undisturbed)
        in_the_middle += ended < len(asked) / 2
        if in_the_middle >= KILLS:
            break
    assert in_the_middle >= KILLS
    wait_for_two(crashes)
    check([edited(crashes, each) for each in asked[:4]], undisturbed[:4])
    assert "lego_serve_requests_in_flight 0.0" in httpx2.get(f"{crashes.url}/metrics", timeout=30).text


def test_an_edit_with_an_adapter_reads_what_was_primed_with_it(crashes: Server, asked: list[Asked]) -> None:
    """The pixels outside are the template's; the image is another than without, and the same each time."""
    lora = '[{"name": "stripes-r4"}]'
    first, again = [edited(crashes, asked[0], lora=lora, num_inference_steps="12", mask_feather="0") for _ in "ab"]
    assert first.status_code == 200, first.text
    assert first.json()["data"] == again.json()["data"]
    usage = first.json()["lego"]
    assert [used["name"] for used in usage["adapters"]] == ["stripes-r4"]
    assert usage["reuse"]["masked_steps"] == 12
    assert usage["reuse"]["primed"] >= 12
    task = asked[0][0]
    made = pixels(first.json()["data"][0])
    outside = ~task.mask.numpy()
    assert np.array_equal(made[outside], task.template.numpy()[outside])
    plain = pixels(edited(crashes, asked[0], num_inference_steps="12", mask_feather="0").json()["data"][0])
    assert not np.array_equal(made, plain)
