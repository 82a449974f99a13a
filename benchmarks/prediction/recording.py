"""What a calibration leaves: groups of requests of one shape, how long each took, and the spans of their jobs.

A file has a group a line, as JSON.  Times within a job are seconds since it began, as ``GET /v1/admin/requests/ID``
tells them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lego_serve.errors import ConfigError

LEGO, MONOLITH = "lego", "baseline"
KINDS = {"text_encode": "encode", "denoise": "denoise", "decode": "decode"}  # nodes of a workflow, in our words
SPAN = ("kind", "from_s", "to_s", "queue_s", "run_s", "transfer_s", "batch", "cache", "steps", "attempts")


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the cost of a request."""

    width: int
    height: int
    steps: int
    guidance: float
    controlnets: int = 0
    adapters: int = 0

    @property
    def addons(self) -> tuple[int, int]:
        """How many ControlNets and adapters."""
        return self.controlnets, self.adapters

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of one shape that one system got in a closed loop; ``load`` names where they come from."""

    load: str
    system: str
    shape: Shape
    outstanding: int
    latency_s: tuple[float, ...]
    jobs: tuple[Mapping[str, Any], ...] = ()  # of lego_serve, in order of their begin
    replicas: int = 1  # of the baseline
    threads: int = 1  # likewise
    ready_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pass:
    """A step of one replica: its lanes, its seconds, and the share of them in which another replica was in a step."""

    shape: Shape
    lanes: int
    seconds: float
    company: float


def trimmed(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a job, as the server tells it, what is fitted from."""
    spans = [{key: span[key] for key in SPAN} for span in job["spans"]]
    return {"id": job["id"], "created": job["created"], "total_s": job["total_s"], "spans": spans}


def write_recording(path: Path, groups: Sequence[Group]) -> None:
    """Write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(group)) + "\n" for group in groups))


def read_recording(path: Path) -> list[Group]:
    """Read the file.  Raises ConfigError for one that is missing or no recording."""
    groups = []
    try:
        for line in path.read_text().splitlines():
            found = json.loads(line)
            shape, latency_s = Shape(**found["shape"]), tuple(found["latency_s"])
            groups.append(Group(**{**found, "shape": shape, "latency_s": latency_s, "jobs": tuple(found["jobs"])}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no recording ({type(error).__name__}: {error}); make one by `calibrate`") from None
    return groups


def spans_of(group: Group, kind: str) -> Iterator[Mapping[str, Any]]:
    """Yield the spans of a kind that ran, not those that a cache answered."""
    for job in group.jobs:
        for span in job["spans"]:
            if KINDS.get(span["kind"]) == kind and span["cache"] != "hit":
                yield span


def passes_of(group: Group) -> list[Pass]:
    """Return the steps that its lanes were part of, once for each lane; all lanes of a pass are alike."""
    steps: list[tuple[str, float, float, int]] = []
    for job in group.jobs:
        for span in job["spans"]:
            if span["kind"] == "denoise" and span["attempts"]:
                replica = str(span["attempts"][-1]["replica"])
                steps += [(replica, job["created"] + at_s, took_s, lanes) for at_s, took_s, lanes in span["steps"]]
    busy = {replica: _merged([(at, at + took) for r, at, took, _ in steps if r != replica]) for replica, *_ in steps}
    return [
        Pass(group.shape, lanes, took_s, _covered(at_s, at_s + took_s, busy[replica]) / took_s)
        for replica, at_s, took_s, lanes in steps
        if took_s > 0
    ]


def between_steps_s(group: Group) -> list[float]:
    """Return the seconds between the end of a step of a lane and the begin of its next one."""
    return [
        max(0.0, later[0] - (earlier[0] + earlier[1]))
        for span in spans_of(group, "denoise")
        for earlier, later in pairwise(span["steps"])
    ]


def _merged(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _covered(start: float, end: float, intervals: Sequence[tuple[float, float]]) -> float:
    return sum(max(0.0, min(end, until) - max(start, since)) for since, until in intervals)
