"""``lego-serve jobs list | show | cancel`` against a gateway with durable jobs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from lego_serve.client import Client
from lego_serve.errors import NodeError
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.client import Live
from tests.support.gateway.durable import Cluster
from tests.support.gateway.runner import FakeRunner


@pytest.fixture
def runner() -> FakeRunner:
    """The runner behind the gateway."""
    return FakeRunner()


@pytest.fixture
def url(tmp_path: Path, runner: FakeRunner) -> Iterator[str]:
    """A gateway's address."""
    with Live(Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny")).app(runner)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """Who submits."""
    client = Client(url)
    yield client
    client.close()


def test_jobs_are_listed_newest_first_and_shown(command, client, url: str) -> None:
    """A row each; all that is known of one, with the links of its images."""
    first = client.wait(client.submit("a", options={"metadata": {"order": "17"}}))
    second = client.wait(client.submit("a", n=2))
    code, out, _ = command("jobs", "list", "--status", "completed", "--url", url)
    rows = [line.replace("│", " ").split() for line in out.splitlines() if "job_" in line]
    assert (code, [row[:5] for row in rows]) == (
        0,
        [[job.id, "lego-tiny", "completed", "100", "%"] for job in (second, first)],
    )
    code, out, _ = command("jobs", "list", "--after", second.id, "--limit", "1", "--url", url)
    assert first.id in out
    assert second.id not in out
    code, out, _ = command("jobs", "show", first.id, "--url", url)
    lines = out.splitlines()
    assert {f"id: {first.id}", "status: completed", "position: -", "metadata order: 17", "deadline: -"} <= set(lines)
    assert lines[-1].startswith(f"image: {url}/v1/jobs/{first.id}/images/0?")


def test_a_job_that_failed_says_why(command, client, runner: FakeRunner, url: str) -> None:
    """In a line of its own."""
    runner.error = NodeError("It broke.")
    job = client.submit("a")
    list(client.progress(job))
    assert "error: node_failed: It broke." in command("jobs", "show", job.id, "--url", url)[1].splitlines()


def test_a_job_is_cancelled(command, client, runner: FakeRunner, url: str) -> None:
    """Which answers its state; one of another name is not there."""
    runner.gate = asyncio.Event()
    job = client.submit("a")
    assert command("jobs", "cancel", job.id, "--url", url)[:2] == (0, f"{job.id}: cancelled\n")
    code, _, error = command("jobs", "cancel", "job_none", "--url", url)
    assert (code, error) == (1, "error: There is no job of this id, or not any more.\n")
