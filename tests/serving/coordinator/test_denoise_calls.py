"""Denoising calls over hand-written nodes: where a lane goes on when its replica is lost or left."""

import asyncio
from dataclasses import replace

import pytest

from lego_serve.core.jobs.messages import LaneProgress, ReplicaDraining
from lego_serve.core.jobs.progress import PREPARING
from lego_serve.core.jobs.recovery import MARGIN_STEPS
from lego_serve.errors import RequestError
from lego_serve.serving.coordinator.coordinator import Coordinator
from lego_serve.serving.errors import NodeHung, NodeLost
from tests.support.nodes import LATENTS, WORKFLOWS, coordinator, job, nodes, now


async def test_a_lost_replica_is_tried_again() -> None:
    """One NodeLost costs a retry, not the job."""
    some = nodes()
    some["lego-tiny", "backbone"].behave = lambda call, count: NodeLost() if count == 1 else LATENTS
    await coordinator(some).run(job())
    assert len(some["lego-tiny", "backbone"].calls) == 2


async def test_a_lane_goes_on_from_its_last_checkpoint_and_alone() -> None:
    """After a replica was lost the call is made again elsewhere, from the state last heard of, under suspicion."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.says[1] = [
        LaneProgress(0, 5, 20, checkpoint=b"five"),
        LaneProgress(0, 7, 20),
        LaneProgress(1, 5, 20, checkpoint=b"x"),
    ]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else LATENTS
    result = await coordinator(some).run(job())
    again = backbone.calls[1]
    assert again.checkpoints == {0: b"five", 1: b"x"}
    assert again.suspect_steps >= 2 + 5
    assert again.avoid == {"r1"}
    assert (result.stats["latents"].attempts, result.stats["latents"].steps_redone) == (2, 2)


async def test_a_lane_leaves_a_replica_that_hangs_without_suspicion_and_with_more_patience() -> None:
    """It goes on from its checkpoint; a second replica that hangs makes it a suspect."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.says[1] = [LaneProgress(0, 5, 20, checkpoint=b"five")]
    backbone.behave = lambda call, count: NodeHung() if count <= 2 else LATENTS
    result = await coordinator(some).run(job())
    assert [(call.hangs, call.suspect_steps > 0) for call in backbone.calls] == [(0, False), (1, False), (2, True)]
    assert backbone.calls[1].checkpoints == {0: b"five"}
    assert backbone.calls[1].avoid == {"r1"}
    assert result.stats["latents"].attempts == 3


async def test_a_draining_replicas_lanes_move_without_suspicion() -> None:
    """A replica that says it is to be left has its call made again elsewhere, from the fresh checkpoint."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.says[1] = [LaneProgress(0, 9, 20, checkpoint=b"nine"), ReplicaDraining()]
    await coordinator(some).run(job())
    assert (backbone.calls[-1].checkpoints, backbone.calls[-1].suspect_steps) == ({0: b"nine"}, 0)
    assert backbone.calls[-1].avoid == {"r1"}


async def test_a_replica_that_leaves_without_a_word_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the router no longer has a replica and its stream is still open, the call moves."""
    monkeypatch.setattr("lego_serve.serving.coordinator.denoise_calls.LAST_WORDS_S", 0.01)
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: 30.0 if count == 1 else LATENTS
    mine = coordinator(some)
    running = asyncio.ensure_future(mine.run(job()))
    while not backbone.calls:
        await asyncio.sleep(0.01)
    mine.departed({"r1"})
    await asyncio.wait_for(running, 60)
    assert (len(backbone.calls), backbone.cancelled) == (2, 1)


async def test_only_a_request_that_kills_while_alone_is_refused() -> None:
    """Two deaths alone in one step are the request's doing; deaths in company are not, however many."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: NodeLost() if count < 6 else LATENTS
    await coordinator(some).run(job())
    assert len(backbone.calls) == 6
    backbone.calls.clear()
    backbone.behave = lambda call, count: NodeLost()
    for number in (2, 3):
        backbone.says[number] = [LaneProgress(0, 3, 20, is_starting=True)]
    with pytest.raises(RequestError) as refused:
        await coordinator(some).run(job())
    assert (refused.value.code, refused.value.status, len(backbone.calls)) == ("poison_request", 422, 3)


async def test_a_request_that_kills_while_it_is_made_ready_is_refused() -> None:
    """It has no step yet in which to be alone; being made ready is as good."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: NodeLost()
    for number in (2, 3):
        backbone.says[number] = [LaneProgress(0, PREPARING, 20, is_starting=True)]
    with pytest.raises(RequestError, match="while it was made ready") as refused:
        await coordinator(some).run(job())
    assert (refused.value.code, len(backbone.calls)) == ("poison_request", 3)


async def test_suspicion_lasts_as_long_as_the_models_checkpoints_are_apart() -> None:
    """Of a model that keeps one every 50 steps, a lane is a suspect for 50 steps and a margin."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.says[1] = [LaneProgress(0, 97, 200)]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else LATENTS
    await Coordinator(some, WORKFLOWS, now, {"lego-tiny": 50}).run(job())
    assert backbone.calls[1].suspect_steps == 97 + 50 + MARGIN_STEPS


async def test_a_job_that_is_taken_from_a_worker_runs_once_more_and_answers_once() -> None:
    """The call that waited there is given up, and the next one says where the job is placed now."""
    some = nodes()
    for (model, component), node in some.items():
        node.hosted = f"{model}.{component}"
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: 30.0 if call.target == "w1" else LATENTS
    apps = dict.fromkeys(some, "shared.workers")
    mine = Coordinator(some, WORKFLOWS, now, {"lego-tiny": 5}, apps=apps)
    mine.pools.report("shared.workers", {"w1": ()})
    running = [asyncio.ensure_future(mine.run(replace(job(), id=f"job {number}"))) for number in range(2)]
    while len(backbone.calls) < 2:
        await asyncio.sleep(0.01)
    mine.pools.progressed("job 0", 1, 20)
    mine.pools.report("shared.workers", {"w1": (), "w2": tuple(node.hosted for node in some.values())})
    async with asyncio.timeout(5):
        await running[1]
    assert [(call.job_id, call.target) for call in backbone.calls] == [
        ("job 0", "w1"),
        ("job 1", "w1"),
        ("job 1", "w2"),
    ]
    assert [each.kind for each in mine.journal.decisions()] == ["steal"]
    running[0].cancel()
