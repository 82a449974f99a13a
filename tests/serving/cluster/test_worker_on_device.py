"""A shared worker in this process whose models compute on another device, and go to host memory and back."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lego_serve.core.jobs.job import ModelMove
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import DenoiseInput, TextEncodeInput, TextEncodeOutput
from lego_serve.core.nodes.requests import MemoryUse, ReportLoad
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.cluster import worker as module
from lego_serve.serving.cluster.worker import WorkerReplica, _size_bytes
from lego_serve.serving.nodes.options import BackboneOptions, HostedNode, TextEncoderOptions, WorkerOptions
from tests.support.engine.emulated_device import NAME, used_bytes

TEXT, BACKBONE = TextEncoderOptions(max_batch=1), BackboneOptions()


def nodes(spec: ModelSpec) -> tuple[HostedNode, ...]:
    """A model's text encoder and backbone on the device, under each of two names."""
    specs = [ModelSpec(name, spec.path, dtype="float32", device=NAME, max_sequence_length=0) for name in ("one", "two")]
    kinds = (("text_encoder", TEXT), ("backbone", BACKBONE))
    return tuple(HostedNode(each, kind, options) for each in specs for kind, options in kinds)


def worker(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, host_bytes: int) -> WorkerReplica:
    """One with room for a model and its files' sizes a little off."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="w1"))
    monkeypatch.setattr("lego_serve.core.caching.file_version.SETTLE_S", 0.0)  # its files may have just been made
    monkeypatch.setattr(module, "serve", SimpleNamespace(get_replica_context=lambda: context))
    hosted = nodes(spec)
    return WorkerReplica(WorkerOptions(hosted, sum(map(_size_bytes, hosted[:2])), False, host_bytes))


async def latents_on(shared: WorkerReplica, model: str) -> tuple[np.ndarray, list[ModelMove]]:
    """What a job's calls make, and what was moved for them."""
    moves: list[ModelMove] = []

    async def ask(component: str, request: Any) -> Any:
        call = NodeCall(request, node=f"{model}.{component}", job_id=None, key="k")
        if component == "backbone":
            result = [message async for message in shared.stream(call)][-1]
            assert isinstance(result, NodeResult)
        else:
            result = await shared.run(call)
        assert result.error is None
        moves.extend(result.stats.moves)
        assert (result.stats.load_s > 0) == any(move.kind == "load" for move in result.stats.moves)
        return result.reply

    cond: TextEncodeOutput = await ask("text_encoder", TextEncodeInput("a red circle"))
    made = await ask("backbone", DenoiseInput(cond, 32, 32, steps=2, guidance=1.0, seed=1, n=1))
    return np.asarray(made.latents), moves


async def test_models_take_turns_on_a_device_and_come_back_from_host_memory_with_the_same_bits(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads its files once; what is where is told, and the device has no byte of what is not there."""
    shared = worker(spec, monkeypatch, host_bytes=10**9)
    images, moves = [], list[ModelMove]()
    for model in ("one", "two", "one", "two"):
        image, moved = await latents_on(shared, model)
        images.append(image)
        moves += moved
        assert sorted(shared._host.nodes) == [f"{model}.backbone", f"{model}.text_encoder"]
    assert all(np.array_equal(image, images[0]) for image in images)
    assert [move.via_host for move in moves if move.kind == "evict"] == [True] * 6
    loads = [(move.model, move.via_host) for move in moves if move.kind == "load"]
    first = [(f"{model}.{kind}", False) for model in ("one", "two") for kind in ("text_encoder", "backbone")]
    assert loads == first + [(name, True) for name, _ in first]
    memory = shared.record_routing_stats()["memory"]
    assert memory["host"] == (shared._host.copies.used_bytes, 10**9)
    assert 0.9 < memory["host"][0] / memory["models"][0] < 1.1
    for name, has in (("one.backbone", True), ("two.backbone", False)):
        load = (await shared.control(ReportLoad(), name))[1]
        assert load is not None
        [host] = [use for use in load.memory if use.kind == "host"]
        assert host == MemoryUse("host", shared._host.copies.bytes_of(name), 10**9, 0)
        assert (host.used > 0) is has


async def test_a_worker_without_host_memory_reads_files_again_and_says_so(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bits."""
    shared = worker(spec, monkeypatch, host_bytes=0)
    first, _ = await latents_on(shared, "one")
    await latents_on(shared, "two")
    before = used_bytes()
    again, moves = await latents_on(shared, "one")
    assert np.array_equal(first, again)
    assert [(move.kind, move.via_host) for move in moves] == [("evict", False), ("load", False)] * 2
    assert set(shared.record_routing_stats()["memory"]) == {"models"}
    assert used_bytes() < 2 * before
