"""A ControlNet without a replica, or a slow one: unavailable until it answers in time."""

import asyncio
import time
from typing import Any

import pytest
import torch

from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.scheduling.retry import CONTROLNET_GRACE_S
from lego_serve.models.ragged.controlnet_source import ControlNetUnavailable
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.controlnets import availability, remote
from lego_serve.serving.nodes.controlnets.messages import RunControlNetStep
from lego_serve.serving.nodes.controlnets.node import ControlNetNode
from lego_serve.serving.nodes.controlnets.remote import RemoteControlNet
from lego_serve.serving.nodes.options import ControlNetOptions
from tests.support.remote_controlnets import Wire, lane, step, widths

ANSWERS_S = 600.0  # which an answer may take
SLOW_S = 0.3


class Listener:
    """What a backbone hears of a ControlNet."""

    def __init__(self) -> None:
        self.back, self.unavailable = asyncio.Event(), asyncio.Event()

    def controlnet_back(self, name: str) -> None:
        """It answers."""
        self.back.set()

    def controlnet_unavailable(self, name: str, longest_s: float) -> None:
        """It does not yet."""
        self.unavailable.set()


class Gone(Wire):
    """A node without a replica: a call is lost with the last one, and later ones wait for the next."""

    def __init__(self, node: ControlNetNode) -> None:
        super().__init__(node)
        self.replaced = asyncio.Event()
        self.is_lost = False

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call."""
        if isinstance(call.request, RunControlNetStep) and not self.is_lost:
            self.is_lost = True
            raise NodeLost
        await self.replaced.wait()
        return await super().run(call)


async def test_one_without_a_replica_is_away_until_it_answers(
    base: ModelSpec, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step hears of it soon, later ones at once; the listener gets an event when it is lost and when it is back."""
    monkeypatch.setattr(availability, "TICK_S", 0.05)
    monkeypatch.setattr(remote, "CONTROLNET_GRACE_S", CONTROLNET_GRACE_S)
    here, wire, listener = widths(base, spec), Gone(ControlNetNode(spec, ControlNetOptions(base))), Listener()
    there = RemoteControlNet(wire, here.spec, torch.float32, ANSWERS_S, listener=listener)
    started = time.monotonic()
    with pytest.raises(ControlNetUnavailable) as unavailable:
        await step(there, lane(there, 1))
    assert time.monotonic() - started < ANSWERS_S / 10
    assert unavailable.value.name == "edges"
    with pytest.raises(ControlNetUnavailable):
        there.start([lane(there, 1)])
    await asyncio.wait_for(listener.unavailable.wait(), 60)
    assert not listener.back.is_set()
    wire.replaced.set()
    await asyncio.wait_for(listener.back.wait(), 60)
    assert all(map(torch.equal, await step(there, lane(there, 1)), await step(here, lane(here, 1))))


async def test_one_that_is_slow_is_given_more_time_until_it_is_in_time(
    base: ModelSpec, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes are set aside for it and taken up again, and none is for ever."""
    monkeypatch.setattr(remote, "CONTROLNET_PATIENCE_S", 0.05)
    here, wire = widths(base, spec), Wire(ControlNetNode(spec, ControlNetOptions(base)), delay_s=SLOW_S)
    there, tries = RemoteControlNet(wire, here.spec, torch.float32, 60.0, listener=(listener := Listener())), 0
    while True:
        tries += 1
        assert tries < 9
        listener.back.clear()
        try:
            results = await step(there, lane(there, 1))
        except ControlNetUnavailable:
            await asyncio.wait_for(listener.back.wait(), 60)
        else:
            break
    assert tries > 1
    assert all(map(torch.equal, results, await step(here, lane(here, 1))))
    assert there._patience_s >= 2 * SLOW_S  # it is known to be slow, and waited for
