"""Lanes with ControlNets: what their steps weigh, going on elsewhere, and whom a failure touches."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import NodeError, RequestError
from lego_serve.models.controlnet.common import LazyResiduals
from lego_serve.models.controlnet.sd3 import Sd3ControlNet
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetLane, ControlNetSource
from lego_serve.models.sampling import FlowMatchTables
from tests.support.engine.control_lanes import TEXT_ROWS, TOKENS, WIDTH, engine_of, finish, latents, request, use


class Faulty(Sd3ControlNet):
    """One that fails for lanes of a certain guidance, at a certain residual, or says what is no number."""

    def __init__(self, inner: Sd3ControlNet, *, poison: float, at: int = 0, nan: bool = False) -> None:
        self.spec = replace(inner.spec, name="faulty")
        self._inner, self._poison, self._at, self._nan = inner, poison, at, nan
        self.prepare, self.image = inner.prepare, inner.image  # type: ignore[method-assign]
        self.sizes: list[int] = []

    def start(self, lanes: Sequence[ControlNetLane]) -> LazyResiduals:
        """As the sound one, but for the faults."""
        self.sizes.append(len(lanes))
        return LazyResiduals(self._made(lanes), self.spec)

    def _made(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        bad = [lane.guidance == self._poison for lane in lanes]
        for index, residual in enumerate(self._inner.residuals(lanes)):
            if index == self._at and any(bad) and not self._nan:
                raise RuntimeError("a failing ControlNet")
            per_lane = residual.view(len(lanes), -1, WIDTH).clone()  # all lanes here are of one shape
            per_lane[torch.tensor(bad)] *= float("nan") if self._nan else 1.0
            yield per_lane.view(-1, WIDTH)


@pytest.mark.parametrize(
    ("start", "end", "active"),
    [(0.0, 1.0, [0, 1, 2, 3, 4]), (0.2, 0.6, [1, 2]), (0.3, 1.0, [2, 3, 4]), (0.0, 0.5, [0, 1]), (0.9, 1.0, [])],
)
def test_a_use_is_active_where_diffusers_keeps_it(start: float, end: float, active: list[int]) -> None:
    """Step i of n where start <= i / n and (i + 1) / n <= end; one without weight never."""
    assert [i for i in range(5) if use(start=start, end=end).is_active((i, i + 1), 5)] == active
    assert not any(use(start=start, end=end, weight=0.0).is_active((i, i + 1), 5) for i in range(5))


def test_a_step_weighs_its_controlnets_as_well(model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet) -> None:
    """Their rows count by what they cost next to the backbone's, in the steps where they are active, per branch."""
    engine = engine_of(model, net=net)
    rows = TOKENS + TEXT_ROWS
    engine.add(request("lane", use(end=0.4), use(start=0.2), guided=(0.0, 0.6)))
    seen = []
    while (plan := engine.plan()) is not None:
        seen.append(plan.work.rows)
        engine.step(plan)
    whole, one = 2 * rows, round(2 * rows / 3)
    assert seen == [whole + one, whole + 2 * one, whole + one, rows + one // 2, rows + one // 2]


def test_what_is_not_active_is_not_run(model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet) -> None:
    """No step before its start, after its end, or at weight nothing asks the ControlNet for anything."""
    counting = Faulty(net, poison=-1.0)
    finish(engine_of(model, net=counting), request("lane", use(start=0.2, end=0.6), use(weight=0.0)))
    assert counting.sizes == [1, 1]


@pytest.mark.parametrize("after", [1, 3])
def test_a_lane_that_goes_on_elsewhere_keeps_its_controlnets(
    model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet, after: int
) -> None:
    """From a checkpoint, in a part where they are active and in one where they are not, with the bits of one run."""
    uses = (use(end=0.8), use(start=0.4, weight=0.5))
    whole = finish(engine_of(model, net=net), request("lane", *uses))["lane"]
    first = engine_of(model, net=net)
    first.add(request("lane", *uses))
    for _ in range(after):
        first.step()
    resumed = replace(request("lane", *uses), checkpoint=first.checkpoint("lane"))
    assert torch.equal(latents(finish(engine_of(model, net=net), resumed)["lane"]), latents(whole))


@pytest.mark.parametrize("at", [0, 1])
def test_a_controlnet_that_fails_takes_its_guilty_lane_alone(
    model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet, at: int
) -> None:
    """Lanes without it and innocent lanes with it end with the bits they have alone."""
    good, faulty = request("good", use("faulty")), Faulty(net, poison=9.0, at=at)
    plain, other = request("plain"), request("another", use("net"))
    guilty = request("guilty", use("faulty"), guidance=9.0)
    engine = engine_of(model, net=net, faulty=faulty)
    found = finish(engine, good, guilty, plain, other)
    failure = found.pop("guilty")
    assert isinstance(failure, NodeError)
    assert failure.code == "controlnet_failed"
    assert failure.message == "ControlNet faulty failed: RuntimeError."
    for one in (good, plain, other):
        assert torch.equal(latents(found[one.key]), latents(finish(engine, one)[one.key]))


def test_a_controlnet_that_says_no_numbers_fails_its_lane_alone(
    model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet
) -> None:
    """NaN in one lane's residuals stays in that lane."""
    engine = engine_of(model, faulty=Faulty(net, poison=9.0, nan=True))
    good, plain = request("good", use("faulty")), request("plain")
    found = finish(engine, good, request("guilty", use("faulty"), guidance=9.0), plain)
    failure = found.pop("guilty")
    assert isinstance(failure, NodeError)
    assert failure.code == "not_finite"
    for one in (good, plain):
        assert torch.equal(latents(found[one.key]), latents(finish(engine, one)[one.key]))


def test_a_controlnet_replaced_while_lanes_use_it_serves_both(
    model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet
) -> None:
    """A lane keeps the source it came with; a newcomer under the same name has the new one, in the same batch."""
    controls: dict[str, ControlNetSource] = {"net": net}
    ticks = iter(range(10**6))
    engine = StepEngine(*model, StepBatcher(fifo, StepLimits(float("inf"))), lambda: float(next(ticks)), controls)
    alone = latents(finish(engine, request("first", use()))["first"])
    engine.add(request("first", use()))
    engine.step()
    again = Faulty(net, poison=-1.0)
    again.spec = net.spec
    controls["net"] = again
    found = finish(engine, request("later", use()))
    assert torch.equal(latents(found["first"]), alone)
    assert set(again.sizes) == {1}


def test_what_does_not_fit_is_refused_when_the_lane_comes(
    model: tuple[Backbone, FlowMatchTables], net: Sd3ControlNet
) -> None:
    """An unknown ControlNet, an image of another size, and numbers that are none; nothing is left behind."""
    engine = engine_of(model, net=net)
    with pytest.raises(NodeError, match="other is not on this replica"):
        engine.add(request("lane", use("other")))
    with pytest.raises(RequestError, match=r"of shape \[8, 12, 12\], the image needs \[8, 14, 12\]"):
        engine.add(request("lane", ControlNetUse("net", torch.zeros(8, 12, 12))))
    for wrong in (use(weight=float("nan")), ControlNetUse("net", torch.full((8, 14, 12), float("inf")))):
        with pytest.raises(RequestError, match="finite"):
            engine.add(request("lane", wrong))
    with pytest.raises(RequestError, match="modes"):
        engine.add(request("lane", use(mode=1)))
    assert engine.lanes == 0
