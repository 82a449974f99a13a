"""Two checkouts are compared with the same requests, in turn."""

import json
from io import StringIO

import httpx2
import pytest
from rich.console import Console

from benchmarks import versions


def test_both_versions_get_the_same_requests_in_changing_order() -> None:
    """Each round asks both for every workload; warm-ups do not count."""
    asked: list[tuple[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.url.host, json.loads(request.content)["prompt"]))
        return httpx2.Response(200, json={})

    clients = [
        httpx2.Client(base_url=f"http://{name}", transport=httpx2.MockTransport(answer)) for name in ("other", "this")
    ]
    seconds = versions.measure(clients, rounds=2, warm_ups=1)
    assert [{name: len(times) for name, times in side.items()} for side in seconds] == [
        dict.fromkeys(versions.WORKLOADS, 2)
    ] * 2
    prompts = [sorted(prompt for host, prompt in asked if host == name) for name in ("other", "this")]
    assert prompts[0] == prompts[1]
    singles = [host for host, prompt in asked if prompt.endswith(("number 0", "number 8"))]
    assert singles[0] == "this"
    assert {asked[0][0], asked[1][0]} == {"this", "other"}


def test_a_version_that_answers_no_image_is_named() -> None:
    """With what it answered."""
    client = httpx2.Client(base_url="http://other", transport=httpx2.MockTransport(lambda _: httpx2.Response(500)))
    with pytest.raises(RuntimeError, match=r"other.*answered 500"):
        versions.ask(client, versions.request_of(0, has_addons=False))


def test_add_ons_take_turns() -> None:
    """Every request has an adapter, every other one the ControlNet."""
    requests = versions.WORKLOADS["8 at once with add-ons"](0)
    assert {request.adapters for request in requests} == {(name,) for name in versions.ADAPTERS}
    assert sum(bool(request.controlnets) for request in requests) == 4


def test_ratios_are_of_rounds() -> None:
    """Their median and quartiles, beside the medians of the seconds."""
    other = {name: [1.0, 2.0, 4.0] for name in versions.WORKLOADS}
    this = {name: [0.5, 2.0, 6.0] for name in versions.WORKLOADS}
    console = Console(file=StringIO(), width=200)
    console.print(versions.ratio_table(other, this))
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("1.00") == len(versions.WORKLOADS)
    assert "0.50 to 1.50" in console.file.getvalue()
