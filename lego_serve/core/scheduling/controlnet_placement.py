"""Chooses where a ControlNet runs: in the backbone's process, or elsewhere, sending its residuals every step.

In the backbone's process the two take turns.  Elsewhere both run at the same time and the residuals cross a link, in
one message a step or one a block; the backbone waits for residual i only at the block that adds it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

FLOAT_BYTES = 4


class Placement(StrEnum):
    """Where a ControlNet runs and how its residuals are sent."""

    COLOCATED = "colocated"
    PER_STEP = "remote, one message a step"
    PER_BLOCK = "remote, one message a block"

    @property
    def is_remote(self) -> bool:
        """Whether it runs in another process."""
        return self is not Placement.COLOCATED


@dataclass(frozen=True, slots=True)
class Link:
    """The network between two replicas: bytes per second, and seconds per message of any size."""

    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class ControlStep:
    """One step of a backbone with one ControlNet.

    ``blocks``: the number of the backbone's blocks.  ``added_at[i]``: the block after which residual ``i`` of the
    ControlNet is first added, in rising order.  ``wait_s``: how long a request waits at a shared ControlNet.
    """

    backbone_s: float
    controlnet_s: float
    blocks: int
    added_at: tuple[int, ...]
    request_bytes: int
    residual_bytes: int
    wait_s: float = 0.0


def residual_bytes(rows: int, width: int, residuals: int, item_bytes: int) -> int:
    """Return the bytes of a step's residuals: ``width`` numbers for every image row of every branch and residual."""
    return rows * width * residuals * item_bytes


def request_bytes(latent_numbers: int) -> int:
    """Return the bytes of a step's request: latents in fp32; a few hundred bytes of keys and times are left out."""
    return latent_numbers * FLOAT_BYTES


def first_blocks(used: Sequence[int]) -> tuple[int, ...]:
    """Return the block that first adds each residual; ``used`` is the residual that every block adds."""
    return tuple(used.index(residual) for residual in sorted(set(used)))


def step_seconds(step: ControlStep, link: Link, placement: Placement) -> float:
    """Return the predicted seconds of one step in a placement."""
    if placement is Placement.COLOCATED:
        return step.backbone_s + step.controlnet_s
    received_s = link.latency_s + step.request_bytes / link.bytes_per_s + step.wait_s
    if placement is Placement.PER_STEP:
        arrival_s = received_s + step.controlnet_s + link.latency_s + step.residual_bytes / link.bytes_per_s
        return _with_waits(step, [arrival_s] * len(step.added_at))
    count = len(step.added_at)
    sent_s, arrivals = received_s, []
    for index in range(count):
        computed_s = received_s + step.controlnet_s * (index + 1) / count
        # Messages follow each other on the link, each with its own latency: the sender does not wait for answers.
        sent_s = max(sent_s, computed_s) + step.residual_bytes / count / link.bytes_per_s
        arrivals.append(sent_s + link.latency_s)
    return _with_waits(step, arrivals)


def choose(step: ControlStep, link: Link | None) -> Placement:
    """Return the placement with the shortest step; ties go to COLOCATED, then to fewer messages."""
    if link is None or link.bytes_per_s <= 0 or not math.isfinite(link.latency_s):
        return Placement.COLOCATED
    return min(Placement, key=lambda placement: step_seconds(step, link, placement))


def _with_waits(step: ControlStep, arrivals: Sequence[float]) -> float:
    """Return the seconds of the backbone, which waits for each residual at the block that first adds it."""
    block_s = step.backbone_s / step.blocks
    elapsed_s, blocks_done = 0.0, 0
    for block, arrival_s in zip(step.added_at, arrivals, strict=True):
        elapsed_s = max(elapsed_s + (block + 1 - blocks_done) * block_s, arrival_s)
        blocks_done = block + 1
    return elapsed_s + (step.blocks - blocks_done) * block_s
