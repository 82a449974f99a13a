"""The coordinator over hand-written nodes: parallel branches, failures, retries, deadlines, cancelling."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import numpy as np
import pytest

from lego_serve.core.jobs.job import Job, JobProgress, TaskStats
from lego_serve.core.jobs.messages import CallAccepted, LaneProgress, Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.jobs.progress import PREPARING, StreamOptions
from lego_serve.core.workflow.bind import bind
from lego_serve.errors import DeadlineExceeded, JobCancelled, NodeError, NotFound, RequestError
from lego_serve.serving.coordinator.coordinator import Coordinator
from lego_serve.serving.errors import NodeLost
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
PIXELS = {"pixels": np.zeros((2, 4, 6, 3), np.uint8)}


class FakeNode:
    """Answers with ``behave`` and notes what it was asked."""

    is_ready = True

    def __init__(self, behave: Callable[[NodeCall, int], object]) -> None:
        self.behave = behave
        self.calls: list[NodeCall] = []
        self.running = self.most_running = 0
        self.cancelled = 0
        self.orders: list[tuple[str, str]] = []
        self.says: dict[int, list[Message]] = {}  # by the number of the call
        self.has: tuple[str, ...] | None = ()

    async def run(self, call: NodeCall) -> NodeResult:
        """One call, a little later."""
        self.calls.append(call)
        return await self._answer(call)

    async def _answer(self, call: NodeCall) -> NodeResult:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(0.01)
            said = self.behave(call, len(self.calls))
            if isinstance(said, float):
                await asyncio.sleep(said)
                said = {}
            if isinstance(said, Exception) and not isinstance(said, RequestError):
                raise said
            return NodeResult(error=said) if isinstance(said, RequestError) else NodeResult(said, TaskStats(0.1, 0.2))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """The same as messages: accepted by replica r1, r2, ..., whatever is in ``says``, and the answer."""
        self.calls.append(call)
        number = len(self.calls)
        yield CallAccepted(f"r{number}")
        for message in self.says.get(number, ()):
            yield message
            await asyncio.sleep(0.001)
        yield await self._answer(call)

    async def resident(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is in ``has``, of one replica; a node that has nothing to say does not answer."""
        if self.has is None:
            await asyncio.Event().wait()
        return [("r1", tuple(self.has or ()))]

    async def control(self, order: str, name: str) -> list[tuple[str, int | None]]:
        """Two replicas, of which r1 has a call to move; orders about calls are heard the second time."""
        self.orders.append((order, name))
        heard = (order, name) == ("drain", "r1") or self.orders.count((order, name)) == 2
        return [("r1", 1 if heard else None), ("r2", None)]


def nodes(text: object = None, denoise: object = None) -> dict[tuple[str, str], FakeNode]:
    """A model whose text encoder or backbone may be told to misbehave."""
    made = {
        "text_encoder": FakeNode(lambda call, count: text if text is not None else {"tokens": 1}),
        "backbone": FakeNode(lambda call, count: denoise if denoise is not None else {"latents": 2}),
        "vae": FakeNode(lambda call, count: PIXELS),
    }
    return {("lego-tiny", component): node for component, node in made.items()}


def job(deadline_s: float | None = None) -> Job:
    """A job whose inputs are bound."""
    inputs = bind(WORKFLOWS["lego-tiny"], {"prompt": "a", "seed": 2**32 - 1, "n": 2})
    return Job("job-1", "lego-tiny", inputs, time.monotonic(), deadline_s)


def coordinator(some: dict[tuple[str, str], FakeNode]) -> Coordinator:
    """A coordinator over them."""
    return Coordinator(some, WORKFLOWS, time.monotonic)


async def test_a_job_runs_its_branches_at_the_same_time_and_answers_images() -> None:
    """Both prompts are encoded at once; images carry their seeds, which wrap."""
    some = nodes()
    result = await coordinator(some).run(job())
    assert some["lego-tiny", "text_encoder"].most_running == 2
    assert [(p.width, p.height, p.seed) for p in result.images] == [(6, 4, 2**32 - 1), (6, 4, 0)]
    assert set(result.node_s) == {"cond", "negative", "latents", "image"}
    assert result.queue_s == pytest.approx(0.4)


async def test_a_nodes_refusal_reaches_the_caller_as_it_is() -> None:
    """A RequestError made in a replica is raised here, and nothing else is run."""
    some = nodes(text=RequestError("too long", param="prompt"))
    with pytest.raises(RequestError, match="too long"):
        await coordinator(some).run(job())
    assert some["lego-tiny", "backbone"].calls == []


async def test_a_refusal_names_the_input_that_the_node_was_given() -> None:
    """The text encoder calls every prompt `prompt`; whose it was stands in the workflow."""
    some = nodes()
    refusal = RequestError("`prompt` has 60 tokens.", param="prompt", code="prompt_too_long")
    some["lego-tiny", "text_encoder"].behave = lambda call, count: refusal if call.inputs["prompt"] == "b" else {}
    inputs = bind(WORKFLOWS["lego-tiny"], {"prompt": "a", "negative_prompt": "b", "seed": 1})
    with pytest.raises(RequestError) as refused:
        await coordinator(some).run(replace(job(), inputs=inputs))
    assert (refused.value.param, refused.value.code) == ("negative_prompt", "prompt_too_long")
    assert refused.value.message == "`negative_prompt` has 60 tokens."


async def test_jobs_in_flight_say_how_they_stand() -> None:
    """Age, and each node waiting, running or done; nothing once the job has ended."""
    mine = coordinator(nodes(denoise=0.3))
    running = asyncio.ensure_future(mine.run(job()))
    await asyncio.sleep(0.15)
    [state] = mine.states()
    assert (state.id, state.workflow, state.tenant) == ("job-1", "lego-tiny", "default")
    assert state.nodes == {"cond": "done", "negative": "done", "latents": "running", "image": "waiting"}
    assert 0.1 < state.age_s < 5
    await running
    assert mine.states() == []


async def test_an_id_that_is_in_flight_is_refused_and_harms_nobody() -> None:
    """The job that has it goes on as if nothing had been; after its end the id is free."""
    mine = coordinator(nodes(denoise=0.2))
    first = asyncio.ensure_future(mine.run(job()))
    await asyncio.sleep(0.05)
    with pytest.raises(ValueError, match="already in flight"):
        await mine.run(job(time.monotonic() + 0.01))
    assert [state.id for state in mine.states()] == ["job-1"]
    assert len((await asyncio.wait_for(first, 5)).images) == 2
    assert mine.in_flight == 0
    await mine.run(job())


async def test_a_lost_replica_is_tried_again() -> None:
    """One NodeLost costs a retry, not the job."""
    some = nodes()
    some["lego-tiny", "backbone"].behave = lambda call, count: NodeLost() if count == 1 else {"latents": 2}
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
    backbone.behave = lambda call, count: NodeLost() if count == 1 else {"latents": 2}
    result = await coordinator(some).run(job())
    again = backbone.calls[1]
    assert again.checkpoints == {0: b"five", 1: b"x"}
    assert again.suspect_steps >= 2 + 5
    assert again.avoid == {"r1"}
    assert (result.stats["latents"].attempts, result.stats["latents"].steps_redone) == (2, 2)


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
    backbone.behave = lambda call, count: 30.0 if count == 1 else {"latents": 2}
    mine = coordinator(some)
    running = asyncio.ensure_future(mine.run(job()))
    while not backbone.calls:
        await asyncio.sleep(0.01)
    mine.departed({"r1"})
    await asyncio.wait_for(running, 5)
    assert (len(backbone.calls), backbone.cancelled) == (2, 1)


async def test_only_a_request_that_kills_while_alone_is_refused() -> None:
    """Three deaths alone in one step are the request's doing; deaths in company are not, however many."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: NodeLost() if count < 6 else {"latents": 2}
    await coordinator(some).run(job())
    assert len(backbone.calls) == 6
    backbone.calls.clear()
    backbone.behave = lambda call, count: NodeLost()
    for number in (2, 3, 4):
        backbone.says[number] = [LaneProgress(0, 3, 20, is_starting=True)]
    with pytest.raises(RequestError) as refused:
        await coordinator(some).run(job())
    assert (refused.value.code, refused.value.status, len(backbone.calls)) == ("poison_request", 400, 4)


async def test_a_request_that_kills_while_it_is_made_ready_is_refused() -> None:
    """It has no step yet in which to be alone; being made ready is as good."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: NodeLost()
    for number in (2, 3, 4):
        backbone.says[number] = [LaneProgress(0, PREPARING, 20, is_starting=True)]
    with pytest.raises(RequestError, match="while it was made ready") as refused:
        await coordinator(some).run(job())
    assert (refused.value.code, len(backbone.calls)) == ("poison_request", 4)


async def test_a_preview_that_cannot_be_made_does_not_end_its_job(caplog: pytest.LogCaptureFixture) -> None:
    """It is left out, and the log says why."""
    some = nodes()
    preview = np.ones((2, 3, 4), np.float32)
    some["lego-tiny", "backbone"].says[1] = [LaneProgress(0, 10, 20, preview=preview)]
    some["lego-tiny", "vae"].behave = lambda call, count: {"matrix": 1} if call.kind == "preview_fit" else PIXELS
    told: list[JobProgress] = []
    result = await coordinator(some).run(replace(job(), stream=StreamOptions(1)), told.append)
    assert (len(result.images), told) == (2, [])
    assert "preview" in caplog.text


async def test_progress_reaches_who_listens_with_previews_projected() -> None:
    """Steps are told as they are; a preview's latents become an image by the VAE's own matrix."""
    some = nodes()
    latents = np.ones((2, 3, 4), np.float32)
    some["lego-tiny", "backbone"].says[1] = [LaneProgress(0, 5, 20, 1.5), LaneProgress(1, 10, 20, 1.0, preview=latents)]
    matrix = np.zeros((19, 3), np.float32)
    matrix[4], matrix[13], matrix[18] = [0.5, 0, 0], [0.25, 0, 0], [0.25, 0.5, 0]  # the latents' own places
    some["lego-tiny", "vae"].behave = lambda call, count: {"matrix": matrix} if call.kind == "preview_fit" else PIXELS
    told: list[JobProgress] = []
    await coordinator(some).run(replace(job(), stream=StreamOptions(1, steps=True)), told.append)
    assert (told[0].index, told[0].step, told[0].preview) == (0, 5, None)
    assert told[1].preview is not None
    assert (told[1].preview.width, told[1].preview.height, told[1].preview.rgb[:3]) == (4, 3, bytes((255, 128, 0)))


async def test_an_operator_drains_a_replica_by_its_id() -> None:
    """The calls that moved are counted; an unknown id is not found."""
    mine = coordinator(nodes())
    assert await mine.replicas() == {"r1": "lego-tiny.backbone", "r2": "lego-tiny.backbone"}
    assert await mine.drain("r1") == 1
    with pytest.raises(NotFound):
        await mine.drain("r9")


async def test_an_unexpected_error_is_the_nodes_fault() -> None:
    """The caller hears of the node, not of the library's words."""
    with pytest.raises(NodeError) as failed:
        await coordinator(nodes(denoise=ValueError("secret"))).run(job())
    assert "secret" not in str(failed.value)


async def test_an_operator_pauses_a_job_wherever_its_lanes_are() -> None:
    """The order goes out until a replica has the call; a call that goes elsewhere brings it along."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else {"latents": 2} if count == 3 else 0.5
    mine = coordinator(some)
    running = asyncio.ensure_future(mine.run(job()))
    while not backbone.calls:
        await asyncio.sleep(0.001)
    key = backbone.calls[0].key
    assert key
    assert await mine.pause("job-1", True)
    assert backbone.orders == [("pause", key)] * 2
    assert [state.is_paused for state in mine.states()] == [True]
    while len(backbone.calls) < 2:
        await asyncio.sleep(0.01)
    assert [call.is_paused for call in backbone.calls] == [False, True]
    assert await mine.pause("job-1", False)
    assert backbone.orders[2:] == [("resume", key)] * 2
    assert not any(state.is_paused for state in mine.states())
    await running
    assert not await mine.pause("job-1", True)


async def test_a_deadline_cancels_what_is_out() -> None:
    """When the deadline passes the running task is cancelled and the job fails."""
    some = nodes(denoise=30.0)
    with pytest.raises(DeadlineExceeded):
        await coordinator(some).run(job(time.monotonic() + 0.1))
    await asyncio.sleep(0)
    assert some["lego-tiny", "backbone"].cancelled == 1


async def test_a_lane_is_to_be_done_before_its_deadline_by_what_comes_after() -> None:
    """Where decoding took 0.2 s of a job, the next one's lane has so much less; before that is known, all there is."""

    class SlowNode(FakeNode):
        async def run(self, call: NodeCall) -> NodeResult:
            await asyncio.sleep(0.2)
            return await super().run(call)

    some = nodes() | {("lego-tiny", "vae"): SlowNode(lambda call, count: PIXELS)}
    mine = coordinator(some)
    left = []
    for _ in range(2):
        await mine.run(job(time.monotonic() + 10))
        left.append(some["lego-tiny", "backbone"].calls[-1].time_left_s)
    assert left[0] == pytest.approx(10, abs=0.15)
    assert left[1] == pytest.approx(9.8, abs=0.15)


async def test_cancelling_by_an_operator_and_by_leaving() -> None:
    """Either way the task is cancelled and nothing stays in flight."""
    for leave in (False, True):
        some = nodes(denoise=30.0)
        mine = coordinator(some)
        running = asyncio.ensure_future(mine.run(job()))
        await asyncio.sleep(0.1)
        if leave:
            running.cancel()
        else:
            assert mine.cancel("job-1")
        with pytest.raises(asyncio.CancelledError if leave else JobCancelled):
            await running
        await asyncio.sleep(0.02)
        assert (some["lego-tiny", "backbone"].cancelled, mine.in_flight) == (1, 0)
        assert not mine.cancel("job-1")


async def test_adapters_are_resolved_first_and_passed_to_all_who_use_them() -> None:
    """Prompts and lanes get what the LoRA node said, and its complaint is about the request's field."""
    some = nodes()
    lora_node = FakeNode(lambda call, count: {"adapters": ("loaded",)})
    some["lego-tiny", "adapters"] = lora_node
    inputs = bind(WORKFLOWS["lego-tiny-lora"], {"prompt": "a", "seed": 1, "lora": ("ask",)})
    wanted = replace(job(), workflow="lego-tiny-lora", inputs=inputs)
    await coordinator(some).run(wanted)
    assert lora_node.calls[0].inputs == {"lora": ("ask",)}
    for component in ("text_encoder", "backbone"):
        assert some["lego-tiny", component].calls[0].inputs["adapters"] == {"adapters": ("loaded",)}
    lora_node.behave = lambda call, count: NotFound("none", param="lora", code="adapter_not_found")
    with pytest.raises(NotFound) as missing:
        await coordinator(some).run(wanted)
    assert missing.value.param == "lora"
