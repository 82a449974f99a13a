"""ControlNets elsewhere: the residuals of one here, whatever is lost, forgotten or asked for at the same time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.core.addons import ControlNetInput
from lego_serve.core.costs import Rates
from lego_serve.core.jobs.messages import CallAccepted, Message, NodeCall, NodeResult
from lego_serve.core.scheduling.controlnet_placement import Link, Placement
from lego_serve.errors import NodeError
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.controlnet.messages import PromptImageCache
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.controlnet_source import (
    ControlNetLane,
    ControlNetSource,
    ControlNetSpec,
    ControlNetUnavailable,
)
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes import availability, remote_controlnet
from lego_serve.serving.nodes.controlnet import ControlNetNode
from lego_serve.serving.nodes.controlnet_sources import ControlNetPlan, ControlNetSources, placement_of
from lego_serve.serving.nodes.remote_controlnet import RemoteControlNet
from lego_serve.zoo.tiny_models import control_miniature

RATES = Rates(1e-6, 1e-9, 1e-3)


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture."""
    return ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0)


@pytest.fixture(scope="module")
def spec(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A ControlNet for it."""
    folder = tmp_path_factory.mktemp("net")
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(folder)
    return ModelSpec("edges", str(folder), dtype="float32", max_sequence_length=0)


class Wire:
    """A node some of whose calls are lost, slow or answered wrongly; it notes what was sent with each."""

    def __init__(self, node: ControlNetNode, lost: int = 0, delay_s: float = 0.0) -> None:
        self.node, self.lost, self.delay_s = node, lost, delay_s
        self.other = node
        self.sent: list[int] = []
        self.running = self.most_running = 0

    async def run(self, call: NodeCall) -> NodeResult:
        """One call."""
        self._note(call)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(self.delay_s)
            return await self.node.run(call)
        finally:
            self.running -= 1

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """One call, whose replica dies after the first residual where it is to be lost."""
        self.sent.append(len(call.inputs["content"]))  # type: ignore[arg-type]
        yield CallAccepted("r1")
        async for message in self.node.stream(call):
            yield message
            if self.lost > 0:
                self.lost -= 1
                raise NodeLost

    def _note(self, call: NodeCall) -> None:
        if call.kind == "control_step":
            self.sent.append(len(call.inputs["content"]))  # type: ignore[arg-type]
        self.lost -= 1
        if self.lost >= 0:
            raise NodeLost


def lane(source: ControlNetSource, seed: int, size: int = 16) -> ControlNetLane:
    """A guided lane as a source prepared it."""
    draw = torch.Generator().manual_seed(seed)
    conds = [
        source.prepare(Conditioning(torch.randn(7, 192, generator=draw), torch.randn(192, generator=draw)))
        for _ in "ab"
    ]
    image = source.image(torch.randn(8, size, size, generator=draw))
    return ControlNetLane(torch.randn(8, size, size, generator=draw), 0.5, 4.0, image, conds[0], conds[1])


async def step(source: ControlNetSource, *lanes: ControlNetLane) -> list[torch.Tensor]:
    """All residuals of a step, waited for as the compute thread does."""
    residuals = source.start(lanes)
    return [(await asyncio.to_thread(residuals.block, i)).clone() for i in range(source.spec.residuals)]  # type: ignore[union-attr]


def remote(wire: Wire, spec: ControlNetSpec, *, per_block: bool = False, timeout_s: float = 20.0) -> RemoteControlNet:
    """The source on the backbone's side."""
    return RemoteControlNet(wire, spec, torch.float32, timeout_s, per_block=per_block)


def widths(base: ModelSpec, spec: ModelSpec) -> ControlNetSource:
    """The ControlNet in this process."""
    return load_controlnet(spec, base)


@pytest.mark.parametrize("per_block", [False, True])
async def test_a_lost_call_is_made_again_to_the_same_bits(
    base: ModelSpec, spec: ModelSpec, per_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the images and prompts that whoever answers next has not seen; else these are sent once."""
    monkeypatch.setattr(remote_controlnet, "RETRY_PAUSE_S", 0.01)
    here = widths(base, spec)
    wire = Wire(ControlNetNode(spec, base), lost=2)
    there = remote(wire, here.spec, per_block=per_block)
    wanted = await step(here, lane(here, 1), lane(here, 2, 12))
    lanes = [lane(there, 1), lane(there, 2, 12)]
    for _ in range(2):
        assert all(map(torch.equal, await step(there, *lanes), wanted))
    assert wire.sent == [6, 6, 6, 0]


async def test_what_a_replica_has_forgotten_is_sent_again(base: ModelSpec, spec: ModelSpec) -> None:
    """One that took another's place without a call being lost says what it lacks."""
    here = widths(base, spec)
    wire = Wire(ControlNetNode(spec, base))
    there = remote(wire, here.spec)
    wanted = await step(here, lane(here, 1))
    mine = lane(there, 1)
    await step(there, mine)
    wire.node._shelf = PromptImageCache(wire.node._net)
    assert all(map(torch.equal, await step(there, mine), wanted))
    assert wire.sent == [3, 0, 3]


async def test_replicas_that_answer_by_turns_get_what_each_of_them_lacks(base: ModelSpec, spec: ModelSpec) -> None:
    """One knows the prompts, the other the new image; what either lacks is sent until somebody has both."""

    class Turns(Wire):
        async def run(self, call: NodeCall) -> NodeResult:
            self.node, self.other = self.other, self.node
            return await super().run(call)

    here, wire = widths(base, spec), Turns(ControlNetNode(spec, base))
    wire.other = ControlNetNode(spec, base)
    there = remote(wire, here.spec)
    await step(there, lane(there, 1))
    images = [replace(lane(source, 1), image=lane(source, 2).image) for source in (there, here)]
    torch.testing.assert_close(await step(there, images[0]), await step(here, images[1]), rtol=0, atol=0)


async def test_controlnets_of_a_step_run_at_the_same_time(base: ModelSpec, spec: ModelSpec) -> None:
    """Both are begun before either is waited for."""
    wire = Wire(ControlNetNode(spec, base), delay_s=0.3)
    sources = [remote(wire, widths(base, spec).spec) for _ in range(2)]
    mailboxes = [source.start([lane(source, 1)]) for source in sources]
    started = time.monotonic()
    for mailbox in mailboxes:
        assert await asyncio.to_thread(mailbox.block, 0) is not None
    assert wire.most_running == 2
    assert time.monotonic() - started < 5


async def test_steps_of_several_backbones_run_in_one_pass_to_the_bits_of_each(base: ModelSpec, spec: ModelSpec) -> None:
    """One of them bad, which fails alone."""
    here = widths(base, spec)
    node = ControlNetNode(spec, base)
    sources = [remote(Wire(node), here.spec) for _ in range(4)]
    lanes = [lane(source, seed, 12 + 4 * (seed % 2)) for seed, source in enumerate(sources)]
    lanes[3] = replace(lanes[3], latents=torch.zeros(3, 16, 16))
    said = await asyncio.gather(
        *(step(s, each) for s, each in zip(sources, lanes, strict=True)), return_exceptions=True
    )
    assert isinstance(said[3], NodeError)
    for seed, residuals in enumerate(said[:3]):
        assert isinstance(residuals, list)
        assert all(map(torch.equal, residuals, await step(here, lane(here, seed, 12 + 4 * (seed % 2)))))


async def test_one_that_does_not_answer_fails_its_lanes_in_time(base: ModelSpec, spec: ModelSpec) -> None:
    """Nobody waits for ever."""
    there = remote(Wire(ControlNetNode(spec, base), delay_s=9), widths(base, spec).spec, timeout_s=0.2)
    with pytest.raises(NodeError) as late:
        await step(there, lane(there, 1))
    assert late.value.code == "controlnet_late"


class Told:
    """What a backbone hears of a ControlNet."""

    def __init__(self) -> None:
        self.back, self.away = asyncio.Event(), asyncio.Event()

    def controlnet_back(self, name: str) -> None:
        """It answers."""
        self.back.set()

    def controlnet_unavailable(self, name: str, longest_s: float) -> None:
        """It does not yet."""
        self.away.set()


class Gone(Wire):
    """A node without a replica: a call is lost with the last one, and later ones wait for the next."""

    def __init__(self, node: ControlNetNode) -> None:
        super().__init__(node)
        self.replaced = asyncio.Event()
        self.is_lost = False

    async def run(self, call: NodeCall) -> NodeResult:
        """One call."""
        if call.kind == "control_step" and not self.is_lost:
            self.is_lost = True
            raise NodeLost
        await self.replaced.wait()
        return await super().run(call)


async def test_one_without_a_replica_is_away_until_it_answers(
    base: ModelSpec, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step hears of it soon, later ones at once; who has lanes that wait is told so, and when it is back."""
    monkeypatch.setattr(availability, "TICK_S", 0.05)
    here, wire, told = widths(base, spec), Gone(ControlNetNode(spec, base)), Told()
    there = RemoteControlNet(wire, here.spec, torch.float32, 20.0, presence=told)
    started = time.monotonic()
    with pytest.raises(ControlNetUnavailable) as away:
        await step(there, lane(there, 1))
    assert time.monotonic() - started < 2
    assert away.value.name == "edges"
    with pytest.raises(ControlNetUnavailable):
        there.start([lane(there, 1)])
    await asyncio.wait_for(told.away.wait(), 5)
    assert not told.back.is_set()
    wire.replaced.set()
    await asyncio.wait_for(told.back.wait(), 5)
    assert all(map(torch.equal, await step(there, lane(there, 1)), await step(here, lane(here, 1))))


async def test_one_that_is_slow_is_given_more_time_until_it_is_in_time(
    base: ModelSpec, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes are set aside for it and taken up again, and none is for ever."""
    monkeypatch.setattr(remote_controlnet, "PATIENCE_S", 0.05)
    here, wire = widths(base, spec), Wire(ControlNetNode(spec, base), delay_s=0.3)
    there, tries = RemoteControlNet(wire, here.spec, torch.float32, 20.0, presence=(told := Told())), 0
    while True:
        tries += 1
        assert tries < 9
        told.back.clear()
        try:
            said = await step(there, lane(there, 1))
        except ControlNetUnavailable:
            await asyncio.wait_for(told.back.wait(), 5)
        else:
            break
    assert tries > 1
    assert all(map(torch.equal, said, await step(here, lane(here, 1))))
    await step(there, lane(there, 2))  # it is known to be slow, and waited for


@pytest.mark.parametrize("per_block", [False, True])
async def test_lanes_hear_when_a_pass_elsewhere_ran(base: ModelSpec, spec: ModelSpec, per_block: bool) -> None:
    """By the time they have its last residual, and it lies within the time they waited."""
    there = remote(Wire(ControlNetNode(spec, base)), widths(base, spec).spec, per_block=per_block)
    heard: list[tuple[float, float]] = []
    one, other = (replace(lane(there, seed), on_pass=lambda *ran: heard.append(ran)) for seed in (1, 2))
    asked = time.time()
    await step(there, one, other)
    assert len(heard) == 2
    assert all(asked <= began < ended <= time.time() for began, ended in heard)


class Handle(Wire):
    """Named in a backbone's plans."""


async def test_a_backbone_has_its_controlnets_here_or_elsewhere_as_planned(base: ModelSpec, spec: ModelSpec) -> None:
    """Those elsewhere join when they are first needed; their rows cost nothing here."""
    far = replace(spec, name="far")
    wire = Handle(ControlNetNode(far, base), lost=1)
    plans = [ControlNetPlan(spec, "colocated", ""), ControlNetPlan(far, "remote", "far.controlnet")]
    sources = ControlNetSources(base, plans, {"far": wire}, RATES)
    assert set(sources.sources) == {"edges"}
    asked = [ControlNetInput(name, None, "") for name in ("edges", "far", "unknown")]
    await asyncio.gather(*(sources.connect(asked) for _ in range(3)))
    assert set(sources.sources) == {"edges", "far"}
    assert sources.sources["far"].spec == replace(sources.sources["edges"].spec, name="far", share=0.0)


FAST, SLOW = Link(1e12, 0.0), Link(1e3, 1.0)


@pytest.mark.parametrize(
    ("placement", "link", "blocks", "wanted"),
    [
        ("auto", FAST, "auto", {Placement.PER_STEP, Placement.PER_BLOCK}),
        ("auto", SLOW, "auto", {Placement.COLOCATED}),
        ("remote", None, "auto", {Placement.PER_STEP}),
        ("remote", SLOW, True, {Placement.PER_BLOCK}),
        ("remote", SLOW, False, {Placement.PER_STEP}),
    ],
)
def test_a_placement_is_what_the_plan_says_or_what_is_predicted_to_be_fast(
    spec: ModelSpec, placement: str, link: Link | None, blocks: bool | str, wanted: Sequence[Placement]
) -> None:
    """By sizes, rates and the link."""
    spec = ControlNetSpec("edges", 128, 2, 0, 8, share=2 * (13 / 12) / 6)
    plan = ControlNetPlan(spec, placement, "", link, blocks)  # type: ignore[arg-type]
    assert placement_of(plan, spec, torch.float32, Rates(1e-3, 1e-6, 1e-2)) in wanted
