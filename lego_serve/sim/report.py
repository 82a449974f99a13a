"""What a simulation says in numbers: one JSON object a run, with everything a reader needs to repeat and judge it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lego_serve.sim.bound import most_in_time
from lego_serve.sim.cluster import Setting
from lego_serve.sim.run import Outcome
from lego_serve.sim.statistics import quantile, share_of
from lego_serve.sim.workload import Request

BATCHES = {"batch 1": (1,), "pairs": (1, 2), "best batch": (1, 2, 4, 8)}
REASONS = 8  # of refusals, the most frequent ones


def fluid_bound(setting: Setting, requests: Sequence[Request], batch: str = "best batch") -> float:
    """The highest attainment that any policy could have, with work at the least that these batches take."""
    rows = BATCHES[batch]
    least = {name: setting.work(name).least_s(rows) for name in setting.workflows}
    work = [
        least[each.workflow] if each.scale == 1.0 else setting.work(each.workflow, each.scale).least_s(rows)
        for each in requests
    ]
    release, deadlines = [each.at_s for each in requests], [each.deadline_s for each in requests]
    return most_in_time(release, deadlines, work, setting.gpus) / len(requests)


def summary(setting: Setting, requests: Sequence[Request], outcome: Outcome) -> dict[str, Any]:
    """Describe a run."""
    latencies = outcome.latencies()
    share = share_of([each.status == "met" for each in outcome.ended])
    busy, load = sum(gpu.busy_s for gpu in outcome.gpus), sum(gpu.load_s for gpu in outcome.gpus)
    end_s = max((each.at_s for each in outcome.ended), default=0.0)
    reasons = Counter(f"{each.status}: {_general(each.reason)}" for each in outcome.ended if each.reason)
    return {
        "requests": len(requests),
        "attainment": share.mean,
        "attainment_95": [share.low, share.high],
        "goodput": outcome.goodput,
        "statuses": outcome.statuses(),
        "by_class": outcome.by_class(),
        "work_attainment": _work_attainment(setting, outcome),
        "latency_s": {
            "mean": sum(latencies) / len(latencies) if latencies else None,
            **{f"p{round(100 * q)}": quantile(latencies, q) for q in (0.5, 0.9, 0.99)},
        },
        "gpu_s": {"busy": busy, "loading": load, "span": end_s * len(outcome.gpus)},
        "loads": sum(gpu.loads for gpu in outcome.gpus),
        "reasons": dict(reasons.most_common(REASONS)),
        "bound": {name: fluid_bound(setting, requests, name) for name in BATCHES},
        "events": outcome.events,
        **outcome.notes,
    }


def _general(reason: str) -> str:
    """A reason without the numbers in it."""
    return " ".join("N" if any(c.isdigit() for c in word) else word for word in reason.split())


def _work_attainment(setting: Setting, outcome: Outcome) -> float:
    """The share of the offered work that was served in time: dropping what is long does not raise it."""
    total = met = 0.0
    for each in outcome.ended:
        work = setting.work(each.request.workflow).solo_s * each.request.scale
        total += work
        met += work if each.status == "met" else 0.0
    return met / total if total else 1.0


def digest(*parts: object) -> str:
    """A hash of inputs, for reports that say of what they are."""
    text = json.dumps([repr(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inputs(setting: Setting, requests: Sequence[Request]) -> Mapping[str, str]:
    """The hashes of a run's inputs."""
    workflows = [(shape, setting.work(name).solo_s, setting.slo_s(name)) for name, shape in setting.workflows.items()]
    return {"cluster": digest(setting.gpus, setting.memory_bytes, workflows), "requests": digest(*requests)}
