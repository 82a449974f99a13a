"""The calls that a job's tasks come to: times, references, adapters, and calls made again."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lego_serve.core.addons import AdapterRequest, LoadedAdapter
from lego_serve.core.jobs.events import TaskDone, TaskFailed
from lego_serve.core.jobs.job import ModelMove, Task, TaskStats
from lego_serve.core.jobs.messages import LaneProgress, NodeCall, NodeResult
from lego_serve.core.nodes.messages import LoadAdaptersInput, LoadAdaptersOutput, TextEncodeInput, TextEncodeOutput
from lego_serve.core.scheduling.retry import RetryPolicy
from lego_serve.core.values import Ref
from lego_serve.core.workflow.bind import bind
from lego_serve.errors import NodeError, NodeUnavailable, NotFound, RequestError
from lego_serve.serving.coordinator.coordinator import Coordinator
from lego_serve.serving.coordinator.job_client import JobClient
from lego_serve.serving.coordinator.task_calls import TaskCalls
from lego_serve.serving.errors import NodeLost
from tests.support.nodes import CONDITIONING, IMAGES, LATENTS, WORKFLOWS, FakeNode, coordinator, job, nodes, now


async def test_a_refusal_names_the_input_that_the_node_was_given() -> None:
    """The text encoder calls every prompt `prompt`; whose it was stands in the workflow."""
    some = nodes()
    refusal = RequestError("`prompt` has 60 tokens.", param="prompt", code="prompt_too_long")
    some["lego-tiny", "text_encoder"].behave = lambda call, count: (
        refusal if call.request.prompt == "b" else CONDITIONING
    )
    inputs = bind(WORKFLOWS["lego-tiny"], {"prompt": "a", "negative_prompt": "b", "seed": 1})
    with pytest.raises(RequestError) as refused:
        await coordinator(some).run(replace(job(), inputs=inputs))
    assert (refused.value.param, refused.value.code) == ("negative_prompt", "prompt_too_long")
    assert refused.value.message == "`negative_prompt` has 60 tokens."


async def test_calls_say_which_job_they_are_for() -> None:
    """So that what a replica logs names it."""
    some = nodes()
    await coordinator(some).run(job())
    assert {call.job_id for node in some.values() for call in node.calls} == {job().id}


async def test_a_lane_is_to_be_done_before_its_deadline_by_what_comes_after() -> None:
    """Where decoding took 0.2 s of a job, the next one's lane has so much less; before that is known, all there is."""

    class SlowNode(FakeNode):
        async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
            await asyncio.sleep(0.2)
            return await super().run(call)

    some = nodes() | {("lego-tiny", "vae"): SlowNode(lambda call, count: IMAGES)}
    mine = coordinator(some)
    for _ in range(2):
        await mine.run(job(now() + 10))
    left = [call.time_left_s for call in some["lego-tiny", "backbone"].calls]
    assert left == [pytest.approx(10 - 0.01), pytest.approx(10 - 0.01 - 0.21)]  # others take 0.01 s


async def test_adapters_are_resolved_first_and_passed_to_all_who_use_them() -> None:
    """Prompts and lanes get what the LoRA node said, and its complaint is about the request's field."""
    some = nodes()
    loaded = LoadAdaptersOutput((LoadedAdapter(AdapterRequest("a"), "0" * 64, 1, has_text=True),))
    lora_node = FakeNode(lambda call, count: loaded)
    some["lego-tiny", "adapters"] = lora_node
    inputs = bind(WORKFLOWS["lego-tiny-lora"], {"prompt": "a", "seed": 1, "lora": (AdapterRequest("a"),)})
    wanted = replace(job(), workflow="lego-tiny-lora", inputs=inputs)
    await coordinator(some).run(wanted)
    assert lora_node.calls[0].request == LoadAdaptersInput((AdapterRequest("a"),))
    for component in ("text_encoder", "backbone"):
        assert some["lego-tiny", component].calls[0].request.adapters is loaded
    lora_node.behave = lambda call, count: NotFound("none", param="lora", code="adapter_not_found")
    with pytest.raises(NotFound) as missing:
        await coordinator(some).run(wanted)
    assert missing.value.param == "lora"


REF = Ref("r", 1 << 20, "a handle")


async def test_arrays_stay_where_they_are_made_until_the_client_needs_them() -> None:
    """Only images come here; who is given a reference is told so."""
    some = nodes(text=TextEncodeOutput(REF, np.zeros(3)))
    await coordinator(some).run(job())
    for component, keeps, reads in (("text_encoder", True, False), ("backbone", True, True), ("vae", False, False)):
        call = some["lego-tiny", component].calls[0]
        assert (call.keeps_arrays, call.reads_refs) == (keeps, reads), component


async def test_a_lost_array_is_made_again_and_then_its_reader_runs_again() -> None:
    """Once by both prompts' encoder: both were its; the client notices nothing."""
    some = nodes(text=TextEncodeOutput(REF, np.zeros(3)))
    backbone = some["lego-tiny", "backbone"]
    backbone.says[1] = [NodeResult(lost_refs=frozenset({"r"}))]
    mine = coordinator(some)
    result = await mine.run(job())
    assert len(result.images) == 2
    assert (len(some["lego-tiny", "text_encoder"].calls), len(backbone.calls)) == (4, 2)
    assert "latents lost its inputs from cond, negative" in " ".join(mine.story("job-1"))


async def test_lanes_whose_inputs_are_lost_with_their_replica_go_on_from_their_checkpoint() -> None:
    """A replica that dies can take down references that it only borrowed: the inputs are made anew, the steps not."""
    some = nodes(text=TextEncodeOutput(REF, np.zeros(3)))
    backbone = some["lego-tiny", "backbone"]
    backbone.says[1] = [LaneProgress(0, 40, 60, checkpoint=b"forty")]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else LATENTS
    backbone.says[2] = [NodeResult(lost_refs=frozenset({"r"}))]
    result = await coordinator(some).run(job())
    assert [call.checkpoints for call in backbone.calls] == [{}, {0: b"forty"}, {0: b"forty"}]
    assert backbone.calls[2].suspect_steps == backbone.calls[1].suspect_steps > 0
    assert backbone.calls[2].avoid == {"r1"}
    assert result.stats["latents"].attempts == 2


def calls_of(some: dict[tuple[str, str], FakeNode], attempts: int = 3) -> TaskCalls:
    """Calls to the nodes, made again after a hundredth of a second."""
    return TaskCalls(some, now, {}, RetryPolicy(attempts, (0.01,)))


async def test_a_request_of_no_job_is_made_again_until_it_is_answered() -> None:
    """As often as the policy has it; then the error names the node and the number."""
    some = nodes()
    text_encoder = some["lego-tiny", "text_encoder"]
    text_encoder.behave = lambda call, count: NodeLost() if count < 3 else CONDITIONING
    assert await calls_of(some).ask("lego-tiny", "text_encoder", TextEncodeInput("a")) is CONDITIONING
    assert len(text_encoder.calls) == 3
    text_encoder.behave = lambda call, count: NodeLost()
    with pytest.raises(NodeError, match="text_encoder lost its replica 2 times"):
        await calls_of(some, attempts=2).ask("lego-tiny", "text_encoder", TextEncodeInput("a"))
    assert len(text_encoder.calls) == 5


async def test_the_nodes_error_reaches_who_makes_a_request_of_no_job() -> None:
    """At the first call: it would be the same again."""
    some = nodes(text=RequestError("too long", param="prompt"))
    with pytest.raises(RequestError, match="too long"):
        await calls_of(some).ask("lego-tiny", "text_encoder", TextEncodeInput("a"))
    assert len(some["lego-tiny", "text_encoder"].calls) == 1


@pytest.mark.parametrize(
    ("reply", "event"),
    [
        (CONDITIONING, TaskDone("job-1", "cond", CONDITIONING, TaskStats(0.1, 0.2))),
        (RequestError("no"), TaskFailed),
        (KeyError("secret"), TaskFailed),
    ],
    ids=["a reply", "a refusal", "an unexpected error"],
)
async def test_a_task_comes_to_one_event_of_its_job_and_node(reply: object, event: object) -> None:
    """Whatever its node answers."""
    mine = job()
    client = JobClient(mine, asyncio.get_running_loop().create_future())
    task = Task(mine.id, "cond", "text_encode", "lego-tiny", {"prompt": "a", "adapters": None})
    outcome = await calls_of(nodes(text=reply)).run(task, client, WORKFLOWS["lego-tiny"])
    assert (outcome.job_id, outcome.node) == ("job-1", "cond")  # type: ignore[union-attr]
    assert outcome == event if isinstance(event, TaskDone) else isinstance(outcome, TaskFailed)
    assert "secret" not in str(getattr(outcome, "error", ""))


async def test_a_prompt_is_checked_by_the_models_own_text_encoder() -> None:
    """Without a job, as work of the tenant that asks; what it refuses is raised as it came."""
    some = nodes()
    refusal = RequestError("`prompt` has 60 tokens.", param="prompt", code="prompt_too_long")
    some["lego-tiny", "text_encoder"].behave = lambda call, count: refusal if call.request.prompt else CONDITIONING
    mine = coordinator(some)
    await mine.check_prompt("lego-tiny", "", "shop", 2.5)
    with pytest.raises(RequestError) as refused:
        await mine.check_prompt("lego-tiny", "a", "press", 1.0)
    assert refused.value.code == "prompt_too_long"
    calls = some["lego-tiny", "text_encoder"].calls
    assert [(call.tenant, call.weight) for call in calls] == [("shop", 2.5), ("press", 1.0)]


async def test_a_model_that_a_worker_holds_back_is_a_decision_with_its_reason() -> None:
    """Other errors are none."""
    for code, told in (("model_quarantined", [("quarantine", "lego-tiny", "It has no weights.")]), ("too_long", [])):
        some = nodes()
        refusal = RequestError("Try again later.", code=code)
        refusal.operator_reason = "It has no weights."
        some["lego-tiny", "backbone"].behave = lambda call, count, refusal=refusal: refusal
        mine = coordinator(some)
        with pytest.raises(RequestError):
            await mine.run(job())
        assert [(each.kind, each.subject, each.why) for each in mine.journal.decisions()] == told


class Workers(FakeNode):
    """A node of two shared workers, of which some cannot load it; a call goes to its target, or the first it may."""

    hosted = "lego-tiny.backbone"

    def __init__(self, *broken: str, value: object = LATENTS) -> None:
        super().__init__(lambda call, count: value)
        self.broken, self.places = broken, list[str]()

    async def _answer(self, call: NodeCall[Any]) -> NodeResult[Any]:
        there = [name for name in ("w1", "w2") if name not in call.avoid] or ["w1"]
        self.places.append(call.target if call.target in there else there[0])
        if self.places[-1] not in self.broken:
            return await super()._answer(call)
        error = NodeUnavailable("It has no weights.", code="model_quarantined")
        error.retry_after_s = 15.0
        return NodeResult(error=error, replica=self.places[-1])


def served_by(backbone: Workers) -> Coordinator:
    """A coordinator of a model whose backbone is on shared workers."""
    some = nodes() | {("lego-tiny", "backbone"): backbone}
    apps = {key: "shared.workers" if node is backbone else ".".join(key) for key, node in some.items()}
    mine = Coordinator(some, WORKFLOWS, now, {"lego-tiny": 5}, retry=RetryPolicy(20, (0.01,)), apps=apps)
    mine.pools.report("shared.workers", {"w1": (), "w2": ()})
    return mine


async def test_a_worker_that_cannot_load_a_model_swallows_no_request_of_it() -> None:
    """The first call goes on at the other worker, the next ones are not sent there; it is said why."""
    backbone = Workers("w1")
    mine = served_by(backbone)
    for _ in range(3):
        assert len((await mine.run(job())).images) == 2
    assert backbone.places == ["w1", "w2", "w2", "w2"]
    [told] = mine.journal.decisions()
    assert (told.kind, told.subject, told.job) == ("quarantine", "lego-tiny", "job-1")
    assert told.why == "It has no weights.; w1 gets no call for it for 15 s"


async def test_only_where_no_worker_can_load_a_model_its_caller_hears_of_it() -> None:
    """Each is asked once; what is held back everywhere is asked for at one of them, which says so at once."""
    backbone = Workers("w1", "w2")
    mine = served_by(backbone)
    with pytest.raises(NodeUnavailable, match="no weights") as refused:
        await mine.run(job())
    assert refused.value.retry_after_s == 15.0
    assert backbone.places == ["w1", "w2"]
    with pytest.raises(NodeUnavailable):
        await mine.run(job())
    assert len(backbone.places) == 3


async def test_calls_without_steps_and_of_no_job_go_on_elsewhere_too() -> None:
    """As that of a text encoder, which an operator may ask as well."""
    encoder = Workers("w1", value=CONDITIONING)
    some = nodes() | {("lego-tiny", "text_encoder"): encoder}
    apps = {key: "shared.workers" if node is encoder else ".".join(key) for key, node in some.items()}
    encoder.hosted = "lego-tiny.text_encoder"
    mine = Coordinator(some, WORKFLOWS, now, {"lego-tiny": 5}, apps=apps)
    mine.pools.report("shared.workers", {"w1": (), "w2": ()})
    await mine.check_prompt("lego-tiny", "a", "default", 1.0)
    assert encoder.places == ["w1", "w2"]
    await mine.run(job())
    assert set(encoder.places[2:]) <= {"w1", "w2"}


async def test_what_a_worker_loaded_and_evicted_is_a_decision_with_its_reason_though_nobody_looks() -> None:
    """It comes with the answer of the next call there, whichever job's that is."""
    some = nodes()
    moves = (
        ModelMove("two.vae", 5_000_000, evicted_for="one.vae"),
        ModelMove("one.vae", 7_000_000, 0.25),
        ModelMove("one.vae", 7_000_000, evicted_for="two.vae", via_host=True),
        ModelMove("old.vae", 4_000_000, evicted_for="one.vae", leaves_host=True),
        ModelMove("one.vae", 7_000_000, 0.01, via_host=True),
    )
    answer = NodeResult(LATENTS, TaskStats(moves=moves), replica="shared#w123")
    some["lego-tiny", "backbone"].says[1] = [answer]
    mine = coordinator(some)
    await mine.run(job())
    assert [(each.kind, each.subject, each.job, each.why) for each in mine.journal.decisions()] == [
        ("evict", "two.vae", "job-1", "it made room (5 MB) for one.vae on worker w123; its next load reads its files"),
        ("load", "one.vae", "job-1", "worker w123 loaded it (7 MB) from its files in 0.25 s"),
        (
            "evict",
            "one.vae",
            "job-1",
            "it made room (7 MB) for two.vae on worker w123; its weights stay in host memory",
        ),
        ("evict", "old.vae", "job-1", "its weights (4 MB) left host memory for those of one.vae on worker w123"),
        ("load", "one.vae", "job-1", "worker w123 loaded it (7 MB) from host memory in 0.01 s"),
    ]
