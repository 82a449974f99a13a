"""A shared worker in this process, without Ray: two models one after the other, with the bits of nodes of their own."""

import asyncio
import math
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lego_serve.core.caching.quarantine import MOST_S
from lego_serve.core.jobs.messages import CallAccepted, LaneProgress, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.nodes.messages import DecodeInput, DenoiseInput, DenoiseOutput, TextEncodeInput, TextEncodeOutput
from lego_serve.core.nodes.requests import DrainReplica, ListTemplateBytes, OfferHelp, ReportCalls, ReportLoad
from lego_serve.errors import NodeError
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.cluster import worker as module
from lego_serve.serving.cluster.replica import make_node
from lego_serve.serving.cluster.worker import WorkerReplica
from lego_serve.serving.nodes.options import (
    BackboneOptions,
    ControlNetPlan,
    HostedNode,
    NodePlace,
    TextEncoderOptions,
    VaeOptions,
    WorkerOptions,
)
from lego_serve.serving.nodes.tensors import weights_bytes

COMPONENTS = {
    "text_encoder": TextEncoderOptions(max_batch=1),
    "backbone": BackboneOptions(helpers=NodePlace("shared.workers", "one.backbone")),
    "vae": VaeOptions(max_batch=1),
}
WEIGHTS = 20_134_668  # the bytes of one model's in fp32


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Serve tells a replica."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="w1"))
    monkeypatch.setattr(module, "serve", SimpleNamespace(get_replica_context=lambda: context))


def spec(name: str, path: str = "builtin:lego-tiny") -> ModelSpec:
    """The package's model under another name."""
    return ModelSpec(name, path, dtype="float32", max_sequence_length=0)


def worker(*specs: ModelSpec, max_bytes: int = WEIGHTS + 5_000_000, preload: bool = False) -> WorkerReplica:
    """One with room for one model and a little."""
    nodes = tuple(HostedNode(each, name, options) for each in specs for name, options in COMPONENTS.items())
    return WorkerReplica(WorkerOptions(nodes, max_bytes, preload))


async def image_on(replica: WorkerReplica, model: str) -> tuple[np.ndarray, float]:
    """A job's calls, one after the other; returns its image and what its calls waited for loads."""
    waited = 0.0

    async def ask(component: str, request: Any, *then: str) -> Any:
        nonlocal waited
        call = NodeCall(request, node=f"{model}.{component}", job_id="job", next_nodes=frozenset(then), key="k")
        if component == "backbone":
            messages = [message async for message in replica.stream(call)]
            assert isinstance(messages[0], CallAccepted)
            result = messages[-1]
        else:
            result = await replica.run(call)
        waited += result.stats.load_s
        return result.reply

    rest = (f"{model}.backbone", f"{model}.vae")
    cond = await ask("text_encoder", TextEncodeInput("a red circle"), *rest)
    negative = await ask("text_encoder", TextEncodeInput(""), *rest)
    latents = await ask("backbone", denoise(cond, negative), f"{model}.vae")
    return np.asarray((await ask("vae", DecodeInput(latents))).pixels), waited


def denoise(cond: TextEncodeOutput, negative: TextEncodeOutput) -> DenoiseInput:
    """A few steps of one small image."""
    return DenoiseInput(cond, 64, 64, steps=3, guidance=4.0, seed=1, n=1, negative=negative)


async def image_alone() -> np.ndarray:
    """The same image by nodes of their own."""
    nodes = {name: make_node(spec("own"), replace(options)) for name, options in COMPONENTS.items()}
    cond = (await nodes["text_encoder"].run(NodeCall(TextEncodeInput("a red circle")))).reply
    negative = (await nodes["text_encoder"].run(NodeCall(TextEncodeInput("")))).reply
    messages = [message async for message in nodes["backbone"].stream(NodeCall(denoise(cond, negative)))]
    assert isinstance(messages[-1], NodeResult)
    latents: DenoiseOutput = messages[-1].reply
    pixels = np.asarray((await nodes["vae"].run(NodeCall(DecodeInput(latents)))).reply.pixels)
    for node in nodes.values():
        node.close()
    return pixels


async def test_models_take_turns_in_a_workers_memory_and_images_are_as_on_nodes_of_their_own(context: None) -> None:
    """It begins with none; the second model evicts the first, which comes back with the same bits."""
    wanted = await image_alone()
    shared = worker(spec("one"), spec("two"))
    assert shared.record_routing_stats()["resident"] == ()
    for model in ("one", "two", "one"):
        image, waited = await image_on(shared, model)
        assert np.array_equal(image, wanted)
        assert waited > 0
        stats = shared.record_routing_stats()
        assert {f"{model}.vae", f"{model}.backbone"} <= set(stats["resident"])
        used, budget = stats["memory"]["models"]
        assert 0 < used <= budget
    await image_on(shared, "one")  # as loads took long or not, its last model may have made its first one's room
    assert (await image_on(shared, "one"))[1] == 0.0
    load = (await shared.control(ReportLoad(), "one.backbone"))[1]
    assert load is not None
    assert load.memory[0].used > 0


async def test_a_worker_tells_of_templates_of_models_that_made_room_and_of_weights_once(context: None) -> None:
    """A node that is not there keeps no templates; one that went says so when it is asked again."""
    shared = worker(spec("one"), spec("two"))
    assert await shared.control(ListTemplateBytes(), "one.backbone") == ("w1", None)
    await image_on(shared, "one")
    assert await shared.control(ListTemplateBytes(), "one.backbone") == ("w1", {})
    _, load = await shared.control(ReportLoad(), "one.backbone")
    assert load is not None
    assert [use.kind for use in load.memory] == ["models", "templates"]
    assert load.memory[0].evicted == 0
    await image_on(shared, "two")
    name, load = await shared.control(ReportLoad(), "one.backbone")
    assert load is not None
    assert (name, load.memory[0].used, load.memory[0].evicted) == ("w1.one.backbone", 0, 1)


async def test_a_model_without_its_weights_is_refused_by_name_and_the_next_is_served(
    context: None, tmp_path: Path
) -> None:
    """At its start the worker loads what can be."""
    from lego_serve.zoo.export import WEIGHTS as FOLDER

    shutil.copytree(FOLDER, tmp_path / "bad", ignore=shutil.ignore_patterns("diffusion_pytorch_model*"))
    shared = worker(spec("bad", str(tmp_path / "bad")), spec("good"), preload=True)
    assert not {"bad.backbone", "bad.vae"} & set(shared.record_routing_stats()["resident"])
    result = await shared.run(NodeCall(DecodeInput(DenoiseOutput(np.zeros(1))), node="bad.vae", job_id="job"))
    assert result.error is not None
    assert (result.error.code, result.error.status, result.replica) == ("model_quarantined", 503, "w1")
    assert "safetensors" in result.error.operator_reason
    assert str(tmp_path) not in result.error.message
    assert 2.0 < (result.error.retry_after_s or 0.0) <= MOST_S
    assert pickle.loads(pickle.dumps(result.error)).operator_reason == result.error.operator_reason
    assert (await image_on(shared, "good"))[0].shape == (1, 64, 64, 3)


async def test_a_suspect_that_has_no_lanes_runs_alone_once_its_model_is_loaded(context: None) -> None:
    """Its answer is as any other's; a model that cannot be loaded is nobody's doing, and nobody is said to run."""
    shared = worker(spec("one"))
    call: NodeCall[Any] = NodeCall(TextEncodeInput("a red circle"), node="one.text_encoder", key="k")
    accepted, starts, answer = [message async for message in shared.stream(replace(call, suspect_steps=1))]
    assert accepted == CallAccepted("w1")
    assert isinstance(starts, LaneProgress)
    assert starts.is_starting
    assert isinstance(answer, NodeResult)
    assert answer.stats.load_s > 0
    assert np.array_equal(answer.reply.tokens, (await shared.run(call)).reply.tokens)
    unknown = replace(call, node="two.vae", suspect_steps=1)
    assert [type(message) async for message in shared.stream(unknown)] == [CallAccepted, NodeResult]


async def test_a_drained_worker_takes_no_more_lanes_and_is_then_replaced(context: None) -> None:
    """Another's drain is none of its business."""
    shared = worker(spec("one"))
    assert (await shared.control(DrainReplica("another"), "one.backbone"))[1] is None
    assert (await shared.control(DrainReplica("w1"), "one.backbone"))[1] == 0
    call: NodeCall[Any] = NodeCall(denoise(None, None), node="one.backbone")  # type: ignore[arg-type]
    assert [type(message) async for message in shared.stream(call)] == [CallAccepted, ReplicaDraining]
    with pytest.raises(Exception, match="drained"):
        await shared.check_health()


async def test_a_worker_says_which_calls_it_has_in_hand_and_which_step_runs(context: None) -> None:
    """Also while it loads what a call is for; the step may be another node's, and one that does not end ends it."""
    shared = worker(spec("one"))
    job = asyncio.ensure_future(image_on(shared, "one"))
    await asyncio.sleep(0)
    name, calls = await shared.control(ReportCalls(), "one.vae")
    assert calls is not None
    assert (name, calls.keys, calls.step) == ("w1", {"k"}, None)
    await job
    _, calls = await shared.control(ReportCalls(), "one.vae")
    assert calls is not None
    assert not calls.keys
    began_s = time.monotonic() - 40.0
    shared._host.nodes["one.backbone"]._engine.gauges.begin(began_s, 0.5)
    _, calls = await shared.control(ReportCalls(), "one.vae")
    assert calls is not None
    assert calls.step is not None
    assert 40.0 <= calls.step.elapsed_s <= time.monotonic() - began_s
    assert calls.step.predicted_s == 0.5
    with pytest.raises(NodeError, match="does not end"):
        await shared.check_health()


async def test_two_workers_take_the_branches_of_a_lone_image_with_the_bits_of_one(
    context: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each knows the other as Ray would tell it."""
    from lego_serve.engine.sharing import branch_splitter
    from lego_serve.serving.nodes import branch_helpers

    workers = [worker(spec("one")) for _ in range(2)]
    alone, _ = await image_on(workers[0], "one")
    await image_on(workers[1], "one")
    first, second = (each._host.nodes["one.backbone"] for each in workers)

    class Group:
        """Both of them."""

        async def control(self, command: OfferHelp) -> list:
            """Ask each."""
            return [await each.control(command, "one.backbone") for each in workers]

    monkeypatch.setattr(branch_helpers, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(branch_splitter, "LEAST_PATIENCE_S", 60.0)
    first._helpers._group = Group()
    first._helpers._host = second._helpers._host = lambda: "127.0.0.1"
    first._helpers.ask()
    await first._helpers._asking
    image, _ = await image_on(workers[0], "one")
    assert np.array_equal(image, alone)
    assert first._helpers.splitter.steps > 0
    assert second._helpers._helper.branches == first._helpers.splitter.steps
    await asyncio.sleep(0)


def test_a_backbone_takes_its_controlnets_that_stay_here(tiny_folder: Path) -> None:
    """Colocated ones, and one whose place is not known yet; a cache of them has bytes of its own."""
    net = ModelSpec("net", str(tiny_folder / "transformer"), dtype="float32")
    plans = [ControlNetPlan(net, place, "m.net") for place in ("auto", "colocated", "remote")]

    def size(*chosen: ControlNetPlan, cache_bytes: int | None = None) -> int:
        options = BackboneOptions(controlnets=chosen, controlnet_bytes=cache_bytes)
        return module._size_bytes(HostedNode(spec("m", str(tiny_folder)), "backbone", options))

    alone = size()
    assert [size(plan) // alone for plan in plans] == [2, 2, 1]
    assert [size(plan, cache_bytes=1) // alone for plan in plans] == [2, 1, 1]
    assert size(*plans) == 3 * alone


async def test_an_evicted_node_gives_its_memory_back_at_once(context: None) -> None:
    """Whatever still refers to it, in circles that Python finds later."""
    shared = worker(spec("one"))
    await image_on(shared, "one")
    parts = {"text_encoder": "_encoder", "backbone": "_backbone", "vae": "_vae"}
    for component, attribute in parts.items():
        node = shared._host.nodes[f"one.{component}"]
        assert weights_bytes(getattr(node, attribute)) > 0
        await asyncio.to_thread(node.close)
        assert weights_bytes(getattr(node, attribute)) == 0


async def test_a_stream_that_is_given_up_has_nothing_in_hand_when_its_node_may_be_evicted(context: None) -> None:
    """Neither a lane nor anything of others: the lease ends last."""
    shared = worker(spec("one"))
    cond = (await shared.run(NodeCall(TextEncodeInput("a red circle"), node="one.text_encoder"))).reply
    request = replace(denoise(cond, cond), steps=200)
    call: NodeCall[Any] = NodeCall(request, node="one.backbone", key="k", stream=StreamOptions(steps=True))
    stream = shared.stream(call)
    while not isinstance(await anext(stream), LaneProgress):
        pass
    backbone = shared._host.nodes["one.backbone"]
    assert backbone._thread.lanes == 1
    await stream.aclose()
    assert (backbone._thread.lanes, backbone._calls, len(backbone._streams)) == (0, {}, 0)
    assert "one.backbone" not in shared._host._expected.keys(math.inf)
