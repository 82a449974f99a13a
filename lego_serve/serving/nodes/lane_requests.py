"""Maps a denoising call to the engine's lanes, and their results to the call's statistics."""

import time
from collections.abc import Sequence
from dataclasses import replace

from lego_serve.core.addons import AdapterStats, ControlNetInput, ControlNetStats
from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import DenoiseInput, DenoiseOutput, EncodeImageOutput, TextEncodeOutput
from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.checkpoints import NOT_TUNED, refuse_untuned
from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.rows.references import Reference
from lego_serve.engine.template_store import Template
from lego_serve.errors import NodeError
from lego_serve.models.ragged.conditioning import Conditioning, ImageLatents
from lego_serve.serving.caches.adapter_cache import AdapterLease
from lego_serve.serving.nodes.tensors import tensor_of


def lane_requests(
    call: NodeCall[DenoiseOutput],
    request: DenoiseInput,
    first: int,
    adapters: tuple[AdapterUse, ...] = (),
    wait_for_adapters_at: int | None = None,
    tier: TierRun | None = None,
) -> list[LaneRequest]:
    """Return a call's lanes, numbered from ``first``, on the grid of their tier, and with its rows.

    ``wait_for_adapters_at``: the asked step before which they wait for their adapters; None where these are loaded.
    """
    lane = _shared_request(call, request, adapters, wait_for_adapters_at)
    lane = lane if tier is None else _in_tier(lane, tier)
    return [
        replace(
            lane,
            key=f"lane-{first + index}",
            seed=(request.seed + index) % 2**32,
            checkpoint=call.checkpoints.get(index),
        )
        for index in range(request.n)
    ]


def tier_on(book: TierBook, checkpoint_tier: str, request: DenoiseInput) -> TierRun | None:
    """Return the tier that a call runs where the weights are the model's own, or of the checkpoint of a tier.

    Raises RequestError for a tier that is not in the book or was not tuned with what is asked, and NodeError for one
    of other weights: that call should have gone elsewhere.
    """
    tier = book.choose(request.tier, request.sampler, request.steps, request.width, request.height)
    needed = "" if tier is None or tier.checkpoint is None else tier.tier
    if needed != checkpoint_tier:
        named = [f"those of tier {name}" if name else "the model's own" for name in (needed, checkpoint_tier)]
        raise NodeError(f"This call needs other weights, {named[0]}, than are here, {named[1]}.", code="wrong_weights")
    if needed:
        refuse_untuned(needed, [name for name in NOT_TUNED if getattr(request, name) is not None])
    return tier


def _in_tier(lane: LaneRequest, tier: TierRun) -> LaneRequest:
    """Return a lane on the grid of its tier; with a checkpoint's own guidance where that is given."""
    lane = replace(lane, tier=tier.tier, grid=tier.grid, own_rows=tier.own_rows, block_rows=tier.block_rows)
    if tier.checkpoint is None or tier.checkpoint.guidance is None:
        return lane
    negative, was_guided = None if tier.checkpoint.is_unguided else lane.negative, lane.is_guided(0)
    guidance = tier.checkpoint.guidance
    return replace(lane, guidance=guidance, guided=(0.0, 1.0), negative=negative, was_guided=was_guided)


def _shared_request(
    call: NodeCall[DenoiseOutput],
    request: DenoiseInput,
    adapters: tuple[AdapterUse, ...],
    wait_for_adapters_at: int | None,
) -> LaneRequest:
    """Return what all lanes of a call have in common."""
    cond = _conditioning(request.cond)
    negative = None if request.negative is None else _conditioning(request.negative)
    prime = None if request.prime is None else _conditioning(request.prime)
    return LaneRequest(
        key="",  # like the seed, set for each lane
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=float(request.guidance),
        seed=0,
        cond=cond,
        negative=negative,
        init=None if request.init is None else _image_latents(request.init),
        strength=float(request.strength),
        sampler=request.sampler,
        guided=(float(request.guidance_start), float(request.guidance_end)),
        deadline_s=None if call.time_left_s is None else time.monotonic() + call.time_left_s,
        weight=call.weight,
        tenant=call.tenant,
        suspect_steps=call.suspect_steps,
        is_paused=call.is_paused,
        controls=tuple(map(_controlnet_use, request.controlnets)),
        adapters=adapters,
        wait_for_adapters_at=wait_for_adapters_at,
        references=() if request.reference is None else (Reference(tensor_of(request.reference.mean)),),
        edit=None if request.edit is None else _edit(request.edit.edit, prime, cond, negative),
    )


def steps_of(request: DenoiseInput) -> int:
    """Return how many of the steps that are asked for the lanes of a call run, or have a tier's grid stand for."""
    steps = request.steps
    if request.init is None and request.edit is None:
        return steps
    return steps - int(max(steps - min(steps * float(request.strength), steps), 0))  # as ``Schedule.shortened``


def adapter_uses(leases: Sequence[AdapterLease]) -> tuple[AdapterUse, ...]:
    """Return the uses of leased adapters by lanes."""
    return tuple(
        AdapterUse(lease.adapter, lease.loaded.request.scale, lease.loaded.request.start, lease.loaded.request.end)
        for lease in leases
    )


def task_stats(
    results: Sequence[LaneResult],
    longest: LaneResult,
    leases: Sequence[AdapterLease],
    controlnets: tuple[ControlNetStats, ...],
) -> TaskStats:
    """Return a call's statistics, those of its longest lane."""
    late_steps = max(result.steps_without_adapter for result in results)
    active = dict(longest.adapter_steps)
    adapters = tuple(
        AdapterStats(
            name=lease.loaded.request.name,
            scale=lease.loaded.request.scale,
            # Late on the replica where the lane began counts as late, even if cached where it went on.
            hit=lease.hit and late_steps == 0,
            load_s=lease.load_s,
            bytes=lease.loaded.size_bytes,
            steps_without_adapter=late_steps,
            steps_active=active.get(lease.loaded.sha256, 0),
            passed_over=lease.adapter.passed_over,
        )
        for lease in leases
    )
    return TaskStats(
        longest.queue_s,
        longest.run_s,
        step_s=longest.step_s,
        step_lanes=longest.step_lanes,
        step_rows=longest.step_rows,
        step_at=longest.step_at,
        batch_size=max(longest.step_lanes, default=1),
        adapters=adapters,
        controlnets=controlnets,
        reuse=_reuse(results, longest),
        tier=longest.tier,
        steps_split=sum(result.steps_split for result in results),
    )


def _reuse(results: Sequence[LaneResult], longest: LaneResult) -> ReuseStats | None:
    """Return the reuse of an edit's lanes, priming counted once."""
    if longest.reuse is None:
        return None
    reuses = [result.reuse for result in results if result.reuse is not None]
    primed, evicted = sum(reuse.primed for reuse in reuses), sum(reuse.evicted for reuse in reuses)
    return replace(longest.reuse, primed=primed, evicted=evicted)


def _controlnet_use(given: ControlNetInput) -> ControlNetUse:
    return ControlNetUse(given.name, tensor_of(given.latents), given.weight, given.start, given.end, key=given.key)


def _edit(given: EditLatents, prime: Conditioning | None, cond: Conditioning, negative: Conditioning | None) -> Edit:
    """Return an edit of a template, primed with the workflow's prompt for it, or else with the request's own."""
    template = Template.of(tensor_of(given.latents), given.seed, given.image)
    primes = (cond if prime is None else prime, cond if negative is None else negative)
    is_described = prime is None or given.is_described
    return Edit(template, tensor_of(given.mask), given.quality, primes, given.pin, is_described)


def _conditioning(value: TextEncodeOutput) -> Conditioning:
    return Conditioning(tensor_of(value.tokens), tensor_of(value.pooled))


def _image_latents(value: EncodeImageOutput) -> ImageLatents:
    return ImageLatents(tensor_of(value.mean), tensor_of(value.std))
