"""Where a ControlNet should run: in the backbone's process, or elsewhere with its residuals sent every step.

In the backbone's process it takes its turn with the backbone.  Elsewhere both run at the same time
and the residuals cross a link, as one message a step or one a block, and residual i is waited for
only at the block that adds it.  Everything here is arithmetic on sizes and rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

FLOAT_BYTES = 4


class Placement(StrEnum):
    """Where a ControlNet runs and how its residuals come."""

    COLOCATED = "colocated"
    PER_STEP = "remote, one message a step"
    PER_BLOCK = "remote, one message a block"

    @property
    def is_remote(self) -> bool:
        """Whether it runs in another process."""
        return self is not Placement.COLOCATED


@dataclass(frozen=True, slots=True)
class Link:
    """The way between two replicas: bytes a second, and seconds any message takes, however short."""

    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class ControlStep:
    """One step of a backbone with one ControlNet.

    ``added_at[i]`` is the backbone block after which residual ``i`` of the ControlNet is first added,
    in rising order; ``blocks`` the backbone's blocks; ``wait_s`` what a request waits at a shared
    ControlNet before it runs.
    """

    backbone_s: float
    controlnet_s: float
    blocks: int
    added_at: tuple[int, ...]
    request_bytes: int
    residual_bytes: int
    wait_s: float = 0.0


def residual_bytes(rows: int, width: int, residuals: int, item_bytes: int) -> int:
    """Bytes of a step's residuals: one row of ``width`` numbers for every image row of every branch and residual."""
    return rows * width * residuals * item_bytes


def request_bytes(latent_numbers: int) -> int:
    """Bytes of a step's request, without its few hundred bytes of keys and times: the lanes' latents in fp32."""
    return latent_numbers * FLOAT_BYTES


def first_blocks(used: Sequence[int]) -> tuple[int, ...]:
    """Where each residual is first added, from the residual every backbone block adds."""
    return tuple(used.index(residual) for residual in sorted(set(used)))


def step_seconds(step: ControlStep, link: Link, placement: Placement) -> float:
    """Predicted seconds of one step in a placement."""
    if placement is Placement.COLOCATED:
        return step.backbone_s + step.controlnet_s
    asked_s = link.latency_s + step.request_bytes / link.bytes_per_s + step.wait_s
    if placement is Placement.PER_STEP:
        arrived_s = asked_s + step.controlnet_s + link.latency_s + step.residual_bytes / link.bytes_per_s
        return _with_waits(step, [arrived_s] * len(step.added_at))
    count = len(step.added_at)
    sent_s, arrivals = asked_s, []
    for index in range(count):
        made_s = asked_s + step.controlnet_s * (index + 1) / count
        # Messages follow each other on the link, each with its own latency: the sender waits for no answer.
        sent_s = max(sent_s, made_s) + step.residual_bytes / count / link.bytes_per_s
        arrivals.append(sent_s + link.latency_s)
    return _with_waits(step, arrivals)


def choose(step: ControlStep, link: Link | None) -> Placement:
    """The placement with the shortest step; ties go to the colocated, then to fewer messages."""
    if link is None or link.bytes_per_s <= 0 or not math.isfinite(link.latency_s):
        return Placement.COLOCATED
    return min(Placement, key=lambda placement: step_seconds(step, link, placement))


def _with_waits(step: ControlStep, arrivals: Sequence[float]) -> float:
    """The backbone block by block, waiting for a residual where it is first added."""
    block_s = step.backbone_s / step.blocks
    now_s, done = 0.0, 0
    for block, arrived_s in zip(step.added_at, arrivals, strict=True):
        now_s = max(now_s + (block + 1 - done) * block_s, arrived_s)
        done = block + 1
    return now_s + (step.blocks - done) * block_s
