"""The ControlNets of a backbone replica, in its own process and remote."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from lego_serve.core.addons import ControlNetInput, ControlNetStats
from lego_serve.core.costs import Rates
from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.scheduling.controlnet_placement import (
    ControlStep,
    Placement,
    choose,
    first_blocks,
    request_bytes,
    residual_bytes,
    step_seconds,
)
from lego_serve.core.scheduling.retry import CONTROLNET_PAUSE_S
from lego_serve.engine.controlnets import ControlNetRun
from lego_serve.errors import NodeError
from lego_serve.models.controlnet.common import OUT_COST
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.dtypes import DTYPES
from lego_serve.models.ragged.controlnet_source import ControlNetSource, ControlNetSpec
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.controlnet_cache import ControlNetCache, ControlNetLease
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.controlnets.availability import ControlNetListener
from lego_serve.serving.nodes.controlnets.messages import ControlNetDescription, DescribeControlNet
from lego_serve.serving.nodes.controlnets.remote import ControlNetHandle, RemoteControlNet
from lego_serve.serving.nodes.options import ControlNetPlan

SAMPLE_TOKENS, SAMPLE_TEXT_ROWS = 256, 32  # the lane a placement is judged by, guided
LATENTS_A_TOKEN = 4


class ControlNetSources:
    """ControlNet sources by name, in ``sources``; remote ones are added at their first use.

    With ``max_bytes`` colocated ones are loaded at use, and ``max_bytes`` of them are cached beyond those in use;
    without it they are loaded at the start and stay.
    """

    def __init__(
        self,
        base: ModelSpec,
        plans: Sequence[ControlNetPlan],
        nodes: Mapping[str, ControlNetHandle],
        rates: Rates,
        max_bytes: int | None = None,
        loaded: Mapping[str, ControlNetSource] | None = None,
    ) -> None:
        """``loaded``: those that are in this process already, and stay."""
        self._base, self._nodes, self._rates = base, nodes, rates
        self.sources: dict[str, ControlNetSource] = dict(loaded or {})
        here = [plan for plan in plans if plan.placement == "colocated" and plan.spec.name not in self.sources]
        if max_bytes is None:
            self.sources |= {plan.spec.name: load_controlnet(plan.spec, base) for plan in here}
            here = []
        local = {plan.spec.name: plan.spec for plan in here}
        self._cache = ControlNetCache(base, local, max_bytes or 0, self.sources)
        self._elsewhere = {plan.spec.name: plan for plan in plans if plan.placement != "colocated"}
        self._connecting: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in self._elsewhere}

    @property
    def kept(self) -> dict[str, ControlNetSource]:
        """The sources whose weights are in this process, by name."""
        return {name: source for name, source in self.sources.items() if not self._is_remote(name)}

    async def connect(self, controls: Sequence[ControlNetInput], listener: ControlNetListener | None = None) -> None:
        """Add the remote sources that ``controls`` name to ``sources``.  Raises NodeError.

        ``listener`` is called when one becomes unavailable and when it is back.
        """
        for control in controls:
            if control.name not in self.sources and control.name in self._elsewhere:
                async with self._connecting[control.name]:
                    if control.name not in self.sources:
                        self.sources[control.name] = await self._source(self._elsewhere[control.name], listener)

    async def take(self, controls: Sequence[ControlNetInput]) -> list[ControlNetLease]:
        """Return leases on the colocated ControlNets that ``controls`` name, loaded.  Raises CheckpointError."""
        return await self._cache.take([control.name for control in controls])

    def release(self, leases: Sequence[ControlNetLease]) -> None:
        """Release the leases."""
        self._cache.release(leases)

    def stats(self, runs: Sequence[ControlNetRun], leases: Sequence[ControlNetLease]) -> tuple[ControlNetStats, ...]:
        """Return the statistics of a lane's ControlNets: runs, placement, and load of the leased ones."""
        lease_of = {lease.name: lease for lease in leases}
        return tuple(self._stats(run, lease_of.get(run.name)) for run in runs)

    def _stats(self, run: ControlNetRun, lease: ControlNetLease | None) -> ControlNetStats:
        place: Literal["colocated", "remote"] = "remote" if self._is_remote(run.name) else "colocated"
        if lease is None:
            return ControlNetStats(run.name, place, run.passes, run.steps_active)
        return ControlNetStats(run.name, place, run.passes, run.steps_active, lease.hit, lease.load_s, lease.size_bytes)

    def _is_remote(self, name: str) -> bool:
        return isinstance(self.sources.get(name), RemoteControlNet)

    async def _source(self, plan: ControlNetPlan, listener: ControlNetListener | None) -> ControlNetSource:
        node = self._nodes[plan.spec.name]
        description = await _describe(node, plan)
        spec, dtype = description.spec, DTYPES[description.dtype]
        placement = placement_of(plan, spec, dtype, self._rates)
        if not placement.is_remote:
            return await asyncio.to_thread(load_controlnet, plan.spec, self._base)
        # Its rows cost nothing here.
        per_block = placement is Placement.PER_BLOCK
        spec = replace(spec, share=0.0)
        return RemoteControlNet(node, spec, dtype, plan.timeout_s, per_block=per_block, listener=listener)


def placement_of(plan: ControlNetPlan, spec: ControlNetSpec, dtype: torch.dtype, rates: Rates) -> Placement:
    """Return a ControlNet's placement: the plan's, or the one predicted to be fastest."""
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
    """Return the sample step of one guided lane on this replica."""
    length = SAMPLE_TOKENS + SAMPLE_TEXT_ROWS
    backbone_s = rates.seconds(2 * length, 2 * length * length)
    residuals = spec.residuals
    # The share was counted in blocks, so the backbone's number of blocks follows from it.
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


async def _describe(node: ControlNetHandle, plan: ControlNetPlan) -> ControlNetDescription:
    """Return a remote ControlNet's description, waiting while it starts.  Raises NodeError."""
    limit = time.monotonic() + plan.timeout_s
    while time.monotonic() < limit:
        try:
            return (await node.run(NodeCall(DescribeControlNet()))).reply
        except NodeLost:
            await asyncio.sleep(CONTROLNET_PAUSE_S)
    raise NodeError(f"ControlNet {plan.spec.name} did not answer.", code="controlnet_failed")
