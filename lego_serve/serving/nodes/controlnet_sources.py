"""The ControlNets of a backbone replica: those in its own process, and those elsewhere as if they were here."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from lego_serve.core.addons import ControlLatents, ControlStats
from lego_serve.core.costs import Rates
from lego_serve.core.jobs.messages import Answer, Call
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
from lego_serve.engine.lane_state import ControlRun
from lego_serve.errors import NodeError
from lego_serve.models.controlnet.common import OUT_COST
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.dtypes import DTYPES
from lego_serve.models.ragged.controlnet_source import ControlForm, ControlSource
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.controlnet_cache import ControlShelf, Held, Local
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.availability import Presence
from lego_serve.serving.nodes.remote_controlnet import RETRY_PAUSE_S, ControlNode, RemoteControl

SAMPLE_TOKENS, SAMPLE_TEXT_ROWS = 256, 32  # the lane a placement is judged by, guided
LATENTS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """How a ControlNet is to be had: loaded here, from its own deployment ``app``, or as ``link`` makes it pay."""

    spec: ModelSpec
    placement: Literal["auto", "colocated", "remote"]
    app: str
    link: Link | None = None
    stream_blocks: bool | Literal["auto"] = "auto"
    timeout_s: float = 120.0
    storage_s: float = 0.0


class ControlSources:
    """Sources by name, in ``sources``; those elsewhere join it when they are first needed.

    With ``max_bytes`` those here are in it while they are in use, and so many bytes of them are kept beyond that;
    without they are loaded at the start and stay.
    """

    def __init__(
        self,
        base: ModelSpec,
        plans: Sequence[ControlPlan],
        nodes: Mapping[str, ControlNode],
        rates: Rates,
        max_bytes: int | None = None,
    ) -> None:
        self._base, self._nodes, self._rates = base, nodes, rates
        here = [plan for plan in plans if plan.placement == "colocated"]
        self.sources: dict[str, ControlSource] = {}
        if max_bytes is None:
            self.sources |= {plan.spec.name: load_controlnet(plan.spec, base) for plan in here}
            here = []
        local = {plan.spec.name: Local(plan.spec, plan.storage_s) for plan in here}
        self._shelf = ControlShelf(base, local, max_bytes or 0, self.sources)
        self._elsewhere = {plan.spec.name: plan for plan in plans if plan.placement != "colocated"}
        self._connecting: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in self._elsewhere}

    async def connect(self, controls: Sequence[ControlLatents], presence: Presence | None = None) -> None:
        """Have the sources these need in ``sources``, as far as they are known.  Raises NodeError.

        ``presence`` is told when one elsewhere is away and when it is back.
        """
        for control in controls:
            if control.name not in self.sources and control.name in self._elsewhere:
                async with self._connecting[control.name]:
                    if control.name not in self.sources:
                        self.sources[control.name] = await self._source(self._elsewhere[control.name], presence)

    async def take(self, controls: Sequence[ControlLatents]) -> list[Held]:
        """Have those that are loaded here in ``sources`` until they are given back.  Raises CheckpointError."""
        return await self._shelf.take([control.name for control in controls])

    def give_back(self, held: Sequence[Held]) -> None:
        """They are no longer in use."""
        self._shelf.give_back(held)

    def stats(self, runs: Sequence[ControlRun], held: Sequence[Held]) -> tuple[ControlStats, ...]:
        """What a lane's ControlNets did, with the place of each, and the load of those that were taken for it."""
        taken = {one.name: one for one in held}
        return tuple(self._stats(run, taken.get(run.name)) for run in runs)

    def _stats(self, run: ControlRun, held: Held | None) -> ControlStats:
        place: Literal["colocated", "remote"] = "remote" if self._is_remote(run.name) else "colocated"
        if held is None:
            return ControlStats(run.name, place, run.passes, run.steps_active)
        return ControlStats(run.name, place, run.passes, run.steps_active, held.hit, held.load_s, held.size_bytes)

    def _is_remote(self, name: str) -> bool:
        return isinstance(self.sources.get(name), RemoteControl)

    async def _source(self, plan: ControlPlan, presence: Presence | None) -> ControlSource:
        node = self._nodes[plan.spec.name]
        value = await _form(node, plan)
        form: ControlForm = value["form"]
        dtype = DTYPES[value["dtype"]]
        placement = placement_of(plan, form, dtype, self._rates)
        if not placement.is_remote:
            return await asyncio.to_thread(load_controlnet, plan.spec, self._base)
        # Its rows cost nothing here.
        per_block = placement is Placement.PER_BLOCK
        form = replace(form, share=0.0)
        return RemoteControl(node, form, dtype, plan.timeout_s, per_block=per_block, presence=presence)


def placement_of(plan: ControlPlan, form: ControlForm, dtype: torch.dtype, rates: Rates) -> Placement:
    """Where a ControlNet runs and how its residuals come: as the plan says, or as is predicted to be the fastest."""
    step = _sample_step(form, dtype, rates)
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


def _sample_step(form: ControlForm, dtype: torch.dtype, rates: Rates) -> ControlStep:
    """A step of one guided lane as this replica's backbone runs it."""
    length = SAMPLE_TOKENS + SAMPLE_TEXT_ROWS
    backbone_s = rates.seconds(2 * length, 2 * length * length)
    residuals = form.residuals
    # The share was counted in blocks, so it tells how many the backbone has.
    blocks = max(residuals, round(residuals * (1 + OUT_COST) / form.share)) if form.share else residuals
    used = [min(int(block * residuals / blocks), residuals - 1) for block in range(blocks)]
    return ControlStep(
        backbone_s,
        form.share * backbone_s,
        blocks,
        first_blocks(used),
        request_bytes(form.channels * LATENTS_A_TOKEN * SAMPLE_TOKENS),
        residual_bytes(2 * SAMPLE_TOKENS, form.width, residuals, dtype.itemsize),
    )


async def _form(node: ControlNode, plan: ControlPlan) -> Any:
    """What a ControlNet elsewhere takes and answers, waited for while it starts.  Raises NodeError."""
    limit = time.monotonic() + plan.timeout_s
    while time.monotonic() < limit:
        try:
            answer: Answer = await node.run(Call("control_form", {}))
        except NodeLost:
            await asyncio.sleep(RETRY_PAUSE_S)
            continue
        if answer.error is not None:
            raise answer.error
        return answer.value
    raise NodeError(f"ControlNet {plan.spec.name} did not answer.", code="controlnet_failed")
