"""Requests that end the replicas of any node: they are stopped, remembered, and cost nobody else anything."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import PREPARING
from lego_serve.core.scheduling.retry import DEATHS_ALONE, RETRIES_A_SECOND, RETRIES_AT_ONCE
from lego_serve.core.workflow.bind import bind
from lego_serve.errors import NodeError, PoisonError
from lego_serve.serving.errors import NodeHung, NodeLost
from tests.support.nodes import CONDITIONING, IMAGES, WORKFLOWS, FakeNode, coordinator, job, nodes, now

STARTS = LaneProgress(0, PREPARING, 1, is_starting=True)
REPLIES = {"text_encoder": CONDITIONING, "vae": IMAGES}
pytestmark = pytest.mark.parametrize("component", list(REPLIES))


def deadly(some: Mapping[tuple[str, str], FakeNode], component: str, *, says: bool = True, lost: int = 500) -> FakeNode:
    """Have a node's replicas die of its first ``lost`` calls, and suspects say that they run alone."""
    node = some["lego-tiny", component]
    told = iter([NodeLost() for _ in range(lost)])
    node.behave = lambda call, count: next(told, REPLIES[component])
    for number in range(1, 40) if says else ():
        node.says[number] = [STARTS]
    return node


def request(prompt: str, seed: int = 1) -> Any:
    """A job of one call to each node."""
    inputs = bind(WORKFLOWS["lego-tiny"], {"prompt": prompt, "guidance": 1.0, "seed": seed})
    return replace(job(), id=f"job-{prompt}-{seed}", inputs=inputs)


async def test_a_call_that_ends_its_replica_again_and_alone_is_refused(component: str) -> None:
    """The first death makes it a suspect, which runs alone; after two more it is no longer sent to anybody."""
    some = nodes()
    node = deadly(some, component)
    with pytest.raises(PoisonError) as refused:
        await coordinator(some).run(request("a"))
    assert (refused.value.code, refused.value.status) == ("poison_request", 422)
    suspects = [call.suspect_steps > 0 for call in node.calls]
    assert suspects.count(False) == (2 if component == "text_encoder" else 1)  # both prompts are encoded at once
    assert suspects.count(True) in range(DEATHS_ALONE, 2 * DEATHS_ALONE + 1)


async def test_it_is_refused_at_once_for_an_hour_with_any_seed_and_whoever_asks(component: str) -> None:
    """No node hears of it; another request goes on as if nothing had been."""
    some = nodes()
    node = deadly(some, component)
    mine = coordinator(some)
    with pytest.raises(PoisonError):
        await mine.run(request("a"))
    asked = {key: len(each.calls) for key, each in some.items()}
    for again in (request("a", seed=2), replace(request("a", seed=3), tenant="other")):
        with pytest.raises(PoisonError, match="60 minutes"):
            await mine.run(again)
    assert {key: len(each.calls) for key, each in some.items()} == asked
    node.behave = lambda call, count: REPLIES[component]
    await mine.run(request("b"))


async def test_a_node_that_fails_whoever_asks_blames_nobody(component: str) -> None:
    """The second request in a row is told that it is the server; and both may come again."""
    some = nodes()
    node = deadly(some, component)
    mine = coordinator(some)
    with pytest.raises(PoisonError):
        await mine.run(request("a"))
    with pytest.raises(NodeError, match="whatever it is asked"):
        await mine.run(request("b"))
    node.behave = lambda call, count: REPLIES[component]
    for prompt in ("a", "b"):
        await mine.run(request(prompt))


async def test_replicas_that_were_gone_before_it_ran_are_nobodys_fault(component: str) -> None:
    """Ten times: it is answered, and its statistics tell how often it was sent."""
    some = nodes()
    deadly(some, component, says=False, lost=10)
    result = await coordinator(some).run(request("a"))
    attempts = sum(stats.attempts - 1 for stats in result.stats.values())
    assert attempts == 10


async def test_one_kill_while_it_ran_alone_is_nobodys_fault(component: str) -> None:
    """Nor are a first that it may have been in, and replicas that hang."""
    some = nodes()
    node = deadly(some, component)
    told = iter([NodeHung(), NodeLost(), NodeLost()])
    node.behave = lambda call, count: next(told, REPLIES[component])
    await coordinator(some).run(request("a"))


async def test_what_is_over_the_budget_waits_and_is_answered_all_the_same(component: str) -> None:
    """A replica dies with three calls more than may be made again at once: the last of them comes a second later."""
    some, lost = nodes(), round(RETRIES_AT_ONCE) + 3
    deadly(some, component, says=False, lost=lost)
    mine = coordinator(some)
    begun_s = now()
    results = await asyncio.gather(*(mine.run(request("a", seed)) for seed in range(lost)))
    assert sum(stats.attempts - 1 for result in results for stats in result.stats.values()) == lost
    assert now() - begun_s > 2.5 / RETRIES_A_SECOND
