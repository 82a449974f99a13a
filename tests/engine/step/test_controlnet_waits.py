"""Lanes whose remote ControlNet is unavailable: they wait, the others do not, and none of their bits change."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.lane_state import LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.controlnet.common import LazyResiduals
from lego_serve.models.controlnet.sd3 import Sd3ControlNet
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetLane, ControlNetUnavailable
from lego_serve.models.sampling import FlowMatchTables
from tests.support.engine.control_lanes import engine_of, finish, latents, request, use

Model = tuple[Backbone, FlowMatchTables]


class Elsewhere(Sd3ControlNet):
    """One that can be unavailable: at once, or when a certain residual is waited for."""

    def __init__(self, inner: Sd3ControlNet, name: str = "far") -> None:
        self.spec = replace(inner.spec, name=name)
        self._inner = inner
        self.prepare, self.image = inner.prepare, inner.image  # type: ignore[method-assign]
        self.away_at: int | None = None

    def start(self, lanes: Sequence[ControlNetLane]) -> LazyResiduals:
        """As the sound one, while it is there."""
        if self.away_at == -1:
            raise ControlNetUnavailable("unavailable", self.spec.name)
        return LazyResiduals(self._made(lanes), self.spec, lanes)

    def _made(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        for index, residual in enumerate(self._inner.residuals(lanes)):
            if index == self.away_at:
                raise ControlNetUnavailable("unavailable", self.spec.name)
            yield residual


def steps(engine: StepEngine, count: int) -> dict[str, LaneResult | LegoError]:
    """What ends within so many steps."""
    return {key: outcome for _ in range(count) for key, outcome in engine.step()}


@pytest.mark.parametrize("away_at", [-1, 0, 1])
def test_lanes_wait_for_a_controlnet_that_is_away_and_others_do_not(
    model: Model, net: Sd3ControlNet, away_at: int
) -> None:
    """Whether it is known before the step or found out in the middle of it; all get the bits they have alone."""
    requests = [
        request("plain"),
        request("with", use("far")),
        request("near", use("net")),
        request("both", use("net"), use("far", weight=0.5)),
        request("later", use("far", start=0.6)),
    ]
    far = Elsewhere(net)
    alone = {one.key: latents(finish(engine_of(model, net=net, far=far), one)[one.key]) for one in requests}
    engine = engine_of(model, net=net, far=far)
    for one in requests:
        engine.add(one)
    found = steps(engine, 2)
    far.away_at = away_at
    found |= steps(engine, 3)
    assert set(found) == {"plain", "near"}
    assert [engine.state(key).step for key in ("with", "both", "later")] == [2, 2, 3]
    assert engine.plan() is None
    far.away_at = None
    engine.controlnet_back("far")
    found |= steps(engine, 3)
    assert engine.lanes == 0
    for key, image in alone.items():
        assert torch.equal(latents(found[key]), image), key


def test_two_that_are_away_are_waited_for_both(model: Model, net: Sd3ControlNet) -> None:
    """A lane goes on when neither is."""
    far, other = Elsewhere(net), Elsewhere(net, "other")
    engine = engine_of(model, far=far, other=other)
    for key, uses in (("one", [use("far")]), ("two", [use("other")]), ("both", [use("far"), use("other")])):
        engine.add(request(key, *uses))
    far.away_at = other.away_at = -1
    engine.step()
    assert engine.plan() is None
    far.away_at = None
    engine.controlnet_back("far")
    assert set(steps(engine, 5)) == {"one"}
    other.away_at = None
    engine.controlnet_back("other")
    assert set(steps(engine, 5)) == {"two", "both"}


def test_a_lane_does_not_wait_for_ever(model: Model, net: Sd3ControlNet) -> None:
    """It ends when it has waited for longer than the limit, with an error that names it; later lanes wait anew."""
    far = Elsewhere(net)
    engine = engine_of(model, far=far)  # whose clock counts how often it is asked
    far.away_at = -1
    engine.add(request("early", use("far")))
    engine.step()
    assert engine.controlnet_unavailable("far", 100.0) == []
    assert engine.controlnet_unavailable("elsewhere", 0.0) == []
    [(key, error)] = engine.controlnet_unavailable("far", 1.0)
    assert isinstance(error, NodeError)
    assert (key, error.code, engine.lanes) == ("early", "controlnet_late", 0)


def test_what_an_operator_paused_stays_so_when_its_controlnet_is_back(model: Model, net: Sd3ControlNet) -> None:
    """It waits for both."""
    far = Elsewhere(net)
    engine = engine_of(model, far=far)
    engine.add(request("lane", use("far")))
    far.away_at = -1
    engine.step()
    engine.pause("lane")
    far.away_at = None
    engine.controlnet_back("far")
    assert engine.plan() is None
    engine.resume("lane")
    assert engine.plan() is not None


def test_a_step_that_was_broken_off_teaches_nothing_of_what_steps_cost(model: Model, net: Sd3ControlNet) -> None:
    """Its time was spent waiting."""
    far, ticks = Elsewhere(net), iter(range(10**6))
    batcher = StepBatcher(fifo, StepLimits(float("inf")))
    engine = StepEngine(*model, batcher, lambda: float(next(ticks)), {"far": far})
    for key, uses in (("plain", ()), ("with", (use("far"),))):
        engine.add(request(key, *uses))
    engine.step()
    before = batcher.rates
    far.away_at = 1
    engine.step()
    assert batcher.rates == before
    assert engine.state("plain").step == 2


def test_a_lane_tells_when_its_controlnets_ran(model: Model, net: Sd3ControlNet) -> None:
    """One pass for each step they were active in, one after the other."""
    outcome = finish(engine_of(model, net=net), request("lane", use(end=0.6)))["lane"]
    assert isinstance(outcome, LaneResult)
    [ran] = outcome.controls
    assert (ran.name, ran.steps_active, len(ran.passes)) == ("net", 3, 3)
    times = [moment for each in ran.passes for moment in each]
    assert times == sorted(times)
