"""The ControlNets of a backbone replica: those in its own process, and those elsewhere as if they were here."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from lego_serve.core.addons import ControlNetInput, ControlNetStats
from lego_serve.core.costs import Rates
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.scheduling.controlnet_placement import (
    ControlStep,
    Link,
    Placement,
    choose,
    first_blocks,
    request_bytes,
    residual_bytes,
    step_seconds,
)
from lego_serve.engine.lane_state import ControlNetRun
from lego_serve.errors import NodeError
from lego_serve.models.controlnet.common import OUT_COST
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.dtypes import DTYPES
from lego_serve.models.ragged.controlnet_source import ControlNetSource, ControlNetSpec
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.controlnet_cache import ControlNetCache, ControlNetLease, LocalControlNet
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.availability import ControlNetListener
from lego_serve.serving.nodes.remote_controlnet import RETRY_PAUSE_S, ControlNetHandle, RemoteControlNet

SAMPLE_TOKENS, SAMPLE_TEXT_ROWS = 256, 32  # the lane a placement is judged by, guided
LATENTS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class ControlNetPlan:
    """How a ControlNet is to be had: loaded here, from its own deployment ``app``, or as ``link`` makes it pay."""

    spec: ModelSpec
    placement: Literal["auto", "colocated", "remote"]
    app: str
    link: Link | None = None
    stream_blocks: bool | Literal["auto"] = "auto"
    timeout_s: float = 120.0
    storage_s: float = 0.0


class ControlNetSources:
    """Sources by name, in ``sources``; those elsewhere join it when they are first needed.

    With ``max_bytes`` those here are in it while they are in use, and so many bytes of them are kept beyond that;
    without they are loaded at the start and stay.
    """

    def __init__(
        self,
        base: ModelSpec,
        plans: Sequence[ControlNetPlan],
        nodes: Mapping[str, ControlNetHandle],
        rates: Rates,
        max_bytes: int | None = None,
    ) -> None:
        self._base, self._nodes, self._rates = base, nodes, rates
        here = [plan for plan in plans if plan.placement == "colocated"]
        self.sources: dict[str, ControlNetSource] = {}
        if max_bytes is None:
            self.sources |= {plan.spec.name: load_controlnet(plan.spec, base) for plan in here}
            here = []
        local = {plan.spec.name: LocalControlNet(plan.spec, plan.storage_s) for plan in here}
        self._shelf = ControlNetCache(base, local, max_bytes or 0, self.sources)
        self._elsewhere = {plan.spec.name: plan for plan in plans if plan.placement != "colocated"}
        self._connecting: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in self._elsewhere}

    async def connect(self, controls: Sequence[ControlNetInput], presence: ControlNetListener | None = None) -> None:
        """Have the sources these need in ``sources``, as far as they are known.  Raises NodeError.

        ``presence`` is told when one elsewhere is away and when it is back.
        """
        for control in controls:
            if control.name not in self.sources and control.name in self._elsewhere:
                async with self._connecting[control.name]:
                    if control.name not in self.sources:
                        self.sources[control.name] = await self._source(self._elsewhere[control.name], presence)

    async def take(self, controls: Sequence[ControlNetInput]) -> list[ControlNetLease]:
        """Have those that are loaded here in ``sources`` until they are given back.  Raises CheckpointError."""
        return await self._shelf.take([control.name for control in controls])

    def release(self, held: Sequence[ControlNetLease]) -> None:
        """They are no longer in use."""
        self._shelf.release(held)

    def stats(self, runs: Sequence[ControlNetRun], held: Sequence[ControlNetLease]) -> tuple[ControlNetStats, ...]:
        """What a lane's ControlNets did, with the place of each, and the load of those that were taken for it."""
        taken = {one.name: one for one in held}
        return tuple(self._stats(run, taken.get(run.name)) for run in runs)

    def _stats(self, run: ControlNetRun, held: ControlNetLease | None) -> ControlNetStats:
        place: Literal["colocated", "remote"] = "remote" if self._is_remote(run.name) else "colocated"
        if held is None:
            return ControlNetStats(run.name, place, run.passes, run.steps_active)
        return ControlNetStats(run.name, place, run.passes, run.steps_active, held.hit, held.load_s, held.size_bytes)

    def _is_remote(self, name: str) -> bool:
        return isinstance(self.sources.get(name), RemoteControlNet)

    async def _source(self, plan: ControlNetPlan, presence: ControlNetListener | None) -> ControlNetSource:
        node = self._nodes[plan.spec.name]
        value = await _form(node, plan)
        spec: ControlNetSpec = value["form"]
        dtype = DTYPES[value["dtype"]]
        placement = placement_of(plan, spec, dtype, self._rates)
        if not placement.is_remote:
            return await asyncio.to_thread(load_controlnet, plan.spec, self._base)
        # Its rows cost nothing here.
        per_block = placement is Placement.PER_BLOCK
        spec = replace(spec, share=0.0)
        return RemoteControlNet(node, spec, dtype, plan.timeout_s, per_block=per_block, presence=presence)


def placement_of(plan: ControlNetPlan, spec: ControlNetSpec, dtype: torch.dtype, rates: Rates) -> Placement:
    """Where a ControlNet runs and how its residuals come: as the plan says, or as is predicted to be the fastest."""
    step = _sample_step(spec, dtype, rates)
    if plan.placement == "auto":
        chosen = choose(step, plan.link)
        if not chosen.is_remote:
            return chosen
    if plan.stream_blocks != "auto":
        return Placement.PER_BLOCK if plan.stream_blocks else Placement.PER_STEP
    if plan.link is None:
        return Placement.PER_STEP
    link = plan.link
    return min((Placement.PER_STEP, Placement.PER_BLOCK), key=lambda placement: step_seconds(step, link, placement))


def _sample_step(spec: ControlNetSpec, dtype: torch.dtype, rates: Rates) -> ControlStep:
    """A step of one guided lane as this replica's backbone runs it."""
    length = SAMPLE_TOKENS + SAMPLE_TEXT_ROWS
    backbone_s = rates.seconds(2 * length, 2 * length * length)
    residuals = spec.residuals
    # The share was counted in blocks, so it tells how many the backbone has.
    blocks = max(residuals, round(residuals * (1 + OUT_COST) / spec.share)) if spec.share else residuals
    used = [min(int(block * residuals / blocks), residuals - 1) for block in range(blocks)]
    return ControlStep(
        backbone_s,
        spec.share * backbone_s,
        blocks,
        first_blocks(used),
        request_bytes(spec.channels * LATENTS_A_TOKEN * SAMPLE_TOKENS),
        residual_bytes(2 * SAMPLE_TOKENS, spec.width, residuals, dtype.itemsize),
    )


async def _form(node: ControlNetHandle, plan: ControlNetPlan) -> Any:
    """What a ControlNet elsewhere takes and answers, waited for while it starts.  Raises NodeError."""
    limit = time.monotonic() + plan.timeout_s
    while time.monotonic() < limit:
        try:
            answer: NodeResult = await node.run(NodeCall("control_form", {}))
        except NodeLost:
            await asyncio.sleep(RETRY_PAUSE_S)
            continue
        if answer.error is not None:
            raise answer.error
        return answer.value
    raise NodeError(f"ControlNet {plan.spec.name} did not answer.", code="controlnet_failed")
