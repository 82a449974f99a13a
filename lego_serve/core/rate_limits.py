"""What a tenant may ask for: requests and work a minute, jobs at once; costs, refusals and headers as pure rules.

Work is counted in pixel-steps: pixels of an image, times its steps, times two where the model is guided away from a
negative prompt, for each image of a request.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_serve.core.workflow.graph import Workflow
from lego_serve.core.workflow.tiers import Books, run_of
from lego_serve.core.workflow.work import node_work

WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of one tenant; None is no limit of its own.

    ``requests`` and ``work`` are a minute's; ``in_flight`` counts the requests that wait for their images, ``queued``
    the durable jobs that have not ended, and ``stored_bytes`` what the files of its durable jobs take.
    """

    requests: int | None = None
    work: int | None = None
    in_flight: int | None = None
    queued: int | None = None
    stored_bytes: int | None = None

    @property
    def quotas(self) -> tuple["Quota", ...]:
        """The limits that are a minute's."""
        found = (("requests", self.requests, None), ("work", self.work, "pixel-steps"))
        return tuple(Quota(name, limit, unit) for name, limit, unit in found if limit is not None)


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of something a tenant may use in a minute, and at once after a minute's rest."""

    name: str
    limit: int
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of a quota is left, and the seconds in which all of it will be there again."""

    quota: Quota
    remaining: int
    reset_s: float

    def wait_s(self, cost: int) -> float:
        """Return the seconds until a cost can be paid; 0 where it can be now, endless where it never can."""
        if cost <= self.remaining:
            return 0.0
        if cost > self.quota.limit:
            return math.inf
        spare = (self.quota.limit - cost) * WINDOW_S / self.quota.limit
        return max(0.0, self.reset_s - spare)


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The quota that a request goes beyond, and when it will not: never where it is larger than the whole quota."""

    quota: Quota
    cost: int
    wait_s: float


def exceeded(standings: Sequence[Standing], costs: Mapping[str, int]) -> Exceeded | None:
    """Return what forbids a request for the longest; None where nothing does.  A quota without a cost is asked one."""
    beyond = []
    for standing in standings:
        cost = costs.get(standing.quota.name, 1)
        if cost > standing.remaining:
            beyond.append(Exceeded(standing.quota, cost, standing.wait_s(cost)))
    return max(beyond, key=lambda each: each.wait_s, default=None)


def headers(standings: Sequence[Standing]) -> dict[str, str]:
    """Return the headers that tell a client of its quotas: RateLimit (draft 11) and those of OpenAI."""
    if not standings:
        return {}
    policies = [_item(each.quota.name, q=each.quota.limit, w=WINDOW_S, qu=each.quota.unit) for each in standings]
    states = [_item(each.quota.name, r=each.remaining, t=math.ceil(each.reset_s)) for each in standings]
    told = {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(states)}
    for each in standings:
        if each.quota.name == "requests":
            told["x-ratelimit-limit-requests"] = str(each.quota.limit)
            told["x-ratelimit-remaining-requests"] = str(each.remaining)
            told["x-ratelimit-reset-requests"] = duration(each.reset_s)
    return told


def duration(seconds: float) -> str:
    """Return seconds as OpenAI writes them: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _item(name: str, **parameters: int | str | None) -> str:
    """Return an item of a structured header with its parameters."""
    words = [
        f"{key}={value}" if isinstance(value, int) else f'{key}="{value}"'
        for key, value in parameters.items()
        if value is not None
    ]
    return ";".join([f'"{name}"', *words])


def pixel_steps(workflow: Workflow, inputs: Mapping[str, object], books: Books | None = None) -> int:
    """Return the work of a job whose inputs are bound, at least 1; in a tier of ``books`` what that computes counts.

    What adapters, ControlNets and the nodes around the backbone add is not counted, nor what a mask saves.
    """
    denoising = [node for node in workflow.nodes.values() if node.kind == "denoise"]
    runs = [run_of(node, inputs, books) if books else None for node in denoising]
    return max(1, round(sum(node_work(node, inputs, run) for node, run in zip(denoising, runs, strict=True))))
