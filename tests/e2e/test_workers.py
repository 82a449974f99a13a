"""Models on shared workers: loaded when asked for, evicted for others, quarantined where they cannot be loaded."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from importlib import resources

import httpx2
import numpy as np
import pytest

from lego_serve.zoo.export import WEIGHTS
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import Server, replicas_of, running

pytestmark = [pytest.mark.ray, pytest.mark.long]  # a server of its own; tests/serving/cluster/test_worker.py is quick
SHARED = "{text_encoder: {placement: shared}, backbone: {placement: shared}, vae: {placement: shared}}"
BUDGET = 24_000_000  # the weights of one model take 20 million bytes
CONFIG = """
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes: {{text_encoder: {{cpus: 0.1}}, backbone: {{cpus: 0.2}}, vae: {{cpus: 0.1}}}}
  one: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {shared}}}
  two: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {shared}}}
  broken: {{path: "{folder}/broken", max_sequence_length: 0, nodes: {shared}}}
workers: {{replicas: {{min: 2, max: 2}}, cpus: 0.4, max_bytes: {budget}}}
workflows: [lego-tiny, one.yaml, two.yaml, broken.yaml]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one model with deployments of its own and three on workers that have room for one at a time."""
    folder = tmp_path_factory.mktemp("shared")
    own = (resources.files("lego_serve") / "workflows" / "lego-tiny.yaml").read_text()
    for name in ("one", "two", "broken"):
        (folder / f"{name}.yaml").write_text(own.replace("lego-tiny", name))
    shutil.copytree(WEIGHTS, folder / "broken", ignore=shutil.ignore_patterns("diffusion_pytorch_model*", "tiers.json"))
    text = CONFIG.format(shared=SHARED, folder=folder, budget=BUDGET)
    with running(folder, 1, text=text) as started:
        yield started


def ask(server: Server, model: str, **body: object) -> httpx2.Response:
    """One generation, however it ends."""
    request = {"model": model, "prompt": PROMPT, "num_inference_steps": 8, "seed": 3} | body
    return httpx2.post(f"{server.url}/v1/images/generations", json=request, timeout=300)


def made(server: Server, model: str, **body: object) -> tuple[np.ndarray, dict]:
    """The image of one that ends well, and how it was made."""
    answer = ask(server, model, **body)
    assert answer.status_code == 200, answer.text
    return pixels(answer.json()["data"][0]), answer.json()["lego"]


def test_images_are_the_same_wherever_their_model_runs_and_say_what_they_waited_for(shared: Server) -> None:
    """Also after it was evicted for another and loaded again: a model without requests takes nothing."""
    wanted, alone = made(shared, "lego-tiny")
    assert "loads" not in alone
    waited = []
    for model in ("one", "two", "one", "two", "two", "two"):
        image, how = made(shared, model)
        assert np.array_equal(image, wanted)
        waited.append(sum(how.get("loads", {}).values()))
    assert max(waited[:4]) > 0
    assert min(waited[4:]) == 0  # two workers, one of which has it by now
    for kind in ("load", "evict"):
        assert any(each["subject"] == "two.backbone" and each["why"] for each in decided(shared, kind)), kind


def test_the_budget_holds_while_requests_for_both_are_in_flight(shared: Server) -> None:
    """Everybody is served, and what each worker keeps is never above it."""
    wanted, _ = made(shared, "lego-tiny")
    images: list[np.ndarray] = []
    seen: list[int] = []

    def one(number: int) -> None:
        images.append(made(shared, ("one", "two")[number % 2])[0])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(models_kept(shared))
        threads[0].join(0.2)
        threads = [thread for thread in threads if thread.is_alive()]
    assert len(images) == 6
    assert all(np.array_equal(image, wanted) for image in images)
    assert 0 < max(seen) <= 2 * BUDGET


def models_kept(server: Server) -> int:
    """The bytes of models on both workers."""
    caches = httpx2.get(f"{server.url}/v1/admin/caches", timeout=30)
    assert caches.status_code == 200, caches.text
    return sum(row["used"] for row in caches.json()["data"] if row["kind"] == "models")


def test_a_model_that_cannot_be_loaded_says_when_to_come_again_and_the_others_go_on(shared: Server) -> None:
    """It fails at once while it is held back; the reason is among the decisions."""
    answer = ask(shared, "broken")
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["code"] == "model_quarantined"
    assert "broken" in error["message"]
    assert "/broken" not in error["message"], "no paths for tenants"
    assert 2 < int(answer.headers["retry-after"]) <= 600
    assert made(shared, "one")[0].shape == (128, 128, 3)
    told = decided(shared, "quarantine")[0]
    assert told["subject"] == "broken"
    assert "safetensors" in told["why"]


def test_a_worker_that_is_killed_while_it_loads_or_computes_costs_no_request(shared: Server) -> None:
    """Its calls go on at the other one, with the bits they always have."""
    wanted, _ = made(shared, "lego-tiny", num_inference_steps=60)
    images: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda model=model: images.append(made(shared, model, num_inference_steps=60)[0]))
        for model in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    threads[0].join(1.0)
    os.kill(replicas_of(shared, "workers")[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(images) == 2
    assert all(np.array_equal(image, wanted) for image in images)


def decided(server: Server, kind: str) -> list[dict]:
    """The decisions of a kind, the last first."""
    return list(httpx2.get(f"{server.url}/v1/admin/decisions?kind={kind}", timeout=30).json()["data"])
