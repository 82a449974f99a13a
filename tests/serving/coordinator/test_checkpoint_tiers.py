"""Jobs in a tier with a checkpoint: their denoising goes to its backbone, everything else where it always goes."""

import asyncio
from dataclasses import replace

import pytest

from lego_serve.core.jobs.job import Job
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.scheduling.retry import RetryPolicy
from lego_serve.core.tiers.book import TierChoice
from lego_serve.core.workflow.tiers import Books, at_tier, checkpoint_nodes
from lego_serve.serving.coordinator.coordinator import Coordinator
from lego_serve.serving.coordinator.job_pools import JobPools
from tests.support.nodes import LATENTS, WORKFLOWS, FakeNode, job, nodes, now
from tests.support.students.tiers import BOOK

TURBO = "lego-tiny", "backbone-turbo"
WORKFLOW = WORKFLOWS["lego-tiny"]


def in_tier(tier: str | None) -> Job:
    """A job whose request settled its tier, or left it to the model."""
    some = job()
    return replace(some, inputs={**some.inputs, "tier": tier})


def with_turbo(default: str = "exact") -> tuple[dict[tuple[str, str], FakeNode], Coordinator]:
    """Fake nodes, one of them of the tier's checkpoint, and who calls them."""
    some = nodes() | {TURBO: FakeNode(lambda call, count: LATENTS)}
    books: Books = {"lego-tiny": replace(BOOK, default=default)}
    return some, Coordinator(some, WORKFLOWS, now, {"lego-tiny": 5}, retry=RetryPolicy(20, (0.01,)), books=books)


@pytest.mark.parametrize(
    ("tier", "default", "runs_turbo"),
    [("turbo", "exact", True), (None, "turbo", True), ("fast", "turbo", False), ("exact", "exact", False)],
)
async def test_only_the_denoising_of_the_tier_goes_to_its_checkpoint(
    tier: str | None, default: str, runs_turbo: bool
) -> None:
    """Prompts and images are the model's own nodes' in all tiers."""
    some, mine = with_turbo(default)
    await mine.run(in_tier(tier))
    counts = [len(some[key].calls) for key in (TURBO, ("lego-tiny", "backbone"))]
    assert counts == ([1, 0] if runs_turbo else [0, 1])
    assert [len(some["lego-tiny", name].calls) for name in ("text_encoder", "vae")] == [2, 1]


async def test_a_call_knows_what_part_of_the_work_it_is() -> None:
    """So that it counts as no more where replicas are chosen, whichever way its node came to its tier."""
    some, mine = with_turbo()
    await mine.run(replace(job(), tier=TierChoice("exact", 0.5, shares={"latents": 0.25})))
    await mine.run(replace(job(), id="job-2"))
    assert [call.request.work_share for call in some["lego-tiny", "backbone"].calls] == [0.25, 1.0]


async def test_an_operator_sees_its_replicas_and_pauses_its_lanes() -> None:
    """As those of any backbone; a command of a job goes where it runs."""
    some, mine = with_turbo()
    some[TURBO].behave = lambda call, count: 0.3
    running = asyncio.ensure_future(mine.run(in_tier("turbo")))
    await asyncio.sleep(0.1)
    assert await mine.pause("job-1", True)
    assert some[TURBO].commands
    assert not some["lego-tiny", "backbone"].commands
    await asyncio.gather(running, return_exceptions=True)
    await mine.drain("r1")
    assert some[TURBO].commands[-1] == some["lego-tiny", "backbone"].commands[-1]


async def test_its_jobs_are_placed_among_its_own_replicas() -> None:
    """Of a deployment of its own, or as one more resident of shared workers, which learn that they need it next."""
    books = {"lego-tiny": BOOK}
    workflow = at_tier(WORKFLOW, in_tier("turbo").inputs, books)
    keys = {(node.model, node.component) for node in (*WORKFLOW.nodes.values(), *checkpoint_nodes(WORKFLOW, books))}
    own = JobPools({key: ".".join(key) for key in keys}, {}, lambda: 0.0, Journal())
    own.report("lego-tiny.backbone-turbo", {"t1": ()})
    own.report("lego-tiny.backbone", {"b1": ()})
    own.add(in_tier("turbo"), workflow)
    assert own.target("job-1") == "t1"
    shared = JobPools(dict.fromkeys(keys, "shared.workers"), {key: ".".join(key) for key in keys}, now, Journal())
    residents = {"w1": ("lego-tiny.backbone",), "w2": ("lego-tiny.backbone-turbo",)}
    usual = ("lego-tiny.text_encoder", "lego-tiny.vae")
    shared.report("shared.workers", {name: (*held, *usual) for name, held in residents.items()})
    shared.add(in_tier("turbo"), workflow)
    assert shared.target("job-1") == "w2"
