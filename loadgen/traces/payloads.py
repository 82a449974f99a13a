"""Makes image requests of the requests of a published trace."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadgen.traces.arrival import GENERATION, Arrival
from loadgen.traces.record import Record
from loadgen.traffic import pair_prompts


@dataclass(frozen=True, slots=True)
class Asking:
    """How requests are put into words for a server.

    ``models`` are the names the server knows its workflows by: the trace's most popular workflow becomes the first,
    and so on in turn; without any, the trace's own names are asked for.  So it is with ``adapters``, which are not
    asked for at all where the server has none, and with ``workflows``, the names of a simulated cluster's.
    """

    models: Sequence[str] = ()
    adapters: Sequence[str] = ()
    size: str = "1024x1024"
    steps: int | None = None  # for requests of which the trace says nothing, or for all where forced
    forces_steps: bool = False
    slo_scale: float | None = 2.0  # of the seconds alone that a trace tells
    slo_ms: float | None = None  # of all other requests
    workflows: Sequence[str] = ()


def to_records(arrivals: Sequence[Arrival], asking: Asking, seed: int) -> Iterator[Record]:
    """Yield the requests in order of time, the first due at once; no prompt and no seed comes twice before all came."""
    ordered = sorted(arrivals, key=lambda arrival: arrival.at_s)
    known = Counter(arrival.workflow for arrival in ordered)
    models, workflows = _named(known, asking.models), _named(known, asking.workflows)
    adapters = _named(Counter(name for arrival in ordered for name in arrival.adapters), asking.adapters)
    prompts = itertools.cycle(pair_prompts(random.Random(f"{seed}/prompts")))
    seeds = itertools.count(random.Random(f"{seed}/seeds").randrange(2**30))
    start_s = ordered[0].at_s if ordered else 0.0
    for arrival in ordered:
        payload: dict[str, object] = {
            "model": models.get(arrival.workflow, arrival.workflow),
            "prompt": next(prompts),
            "n": arrival.images,
            "size": asking.size,
        }
        if (steps := _steps(arrival, asking)) is not None:
            payload["num_inference_steps"] = steps
        payload["seed"] = next(seeds) % 2**32
        if used := list(dict.fromkeys(adapters[name] for name in arrival.adapters if name in adapters)):
            payload["lora"] = [{"name": name, "scale": 1.0} for name in used]
        workflow = workflows.get(arrival.workflow, arrival.workflow)
        yield Record(1000 * (arrival.at_s - start_s), payload, {"workflow": workflow, **_extra(arrival, asking)})


def _named(counts: Counter[str], names: Sequence[str]) -> dict[str, str]:
    """Give the most popular the first name, and so on in turn; none where there are no names."""
    if not names:
        return {}
    return {known: names[rank % len(names)] for rank, (known, _) in enumerate(counts.most_common())}


def _steps(arrival: Arrival, asking: Asking) -> int | None:
    return asking.steps if asking.forces_steps or arrival.steps is None else arrival.steps


def _extra(arrival: Arrival, asking: Asking) -> dict[str, object]:
    extra: dict[str, object] = {}
    if arrival.tenant:
        extra["tenant"] = arrival.tenant
    if arrival.kind != GENERATION:
        extra["kind"] = arrival.kind
    for name, values in (("controlnets", arrival.controlnets), ("adapters", arrival.adapters)):
        if values:
            extra[name] = list(values)
    slo_ms = asking.slo_ms
    if arrival.solo_s is not None:
        extra["solo_ms"] = round(1000 * arrival.solo_s, 3)
        slo_ms = 1000 * arrival.solo_s * asking.slo_scale if asking.slo_scale is not None else slo_ms
    if slo_ms is not None:
        extra["slo_ms"] = round(slo_ms, 3)
    if arrival.source:
        extra["source"] = dict(arrival.source)
    return extra
