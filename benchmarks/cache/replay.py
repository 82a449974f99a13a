"""What the cache ledger saves: ``python -m benchmarks.cache.replay [--curves FILE]``.

The load-seconds of several policies over those of LRU, on requests drawn from production popularity curves: in a steady
state, and right after all ranks of popularity are shuffled.  Every policy sees the same requests.
"""

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cache.policies import POLICIES, Policy
from loadgen.popularity import (
    CATALOGUE,
    CLUSTERING,
    CURVES,
    Points,
    Thing,
    alike,
    catalogue,
    read_curves,
    shares,
    stream,
)

SLOTS = (5, 10, 20, 50)
SETTINGS = ("alike", "mixed", "clustered")
WARM_UP = 4000
MEASURED = {"controlnet": 16000, "lora": 8000}  # ControlNets are missed rarely: more requests say the same
SHIFT_SEEDS = {"controlnet": 12, "lora": 4}
WINDOWS = (200, 1000)
AFTER = "first {} after a shift"

console = Console(width=150)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a popularity curve, the kind of things and requests, and the cache's size."""

    curve: str
    setting: str  # alike, mixed (sizes and load times), clustered (mixed, and requests come in bursts)
    slots: int  # the bytes of so many things of mean size

    @property
    def kind(self) -> str:
        """The kind of thing that is requested."""
        return self.curve.partition("_")[0]


@dataclass(frozen=True, slots=True)
class Scene:
    """All things, the popularity of each, the requests (numbers of things) and the cache's budget of bytes."""

    things: Sequence[Thing]
    popularity: Sequence[float]
    requests: Sequence[int]
    budget: int


def scene(case: Case, points: Points, seed: int, requests: int, shift_after: int | None = None) -> Scene:
    """Draw a scene; the same seed draws the same one."""
    rng = random.Random(seed)
    count = CATALOGUE[case.kind]
    things = alike(count) if case.setting == "alike" else catalogue(case.kind, count, rng)
    popularity = shares(points, count)
    locality = CLUSTERING[case.curve] if case.setting == "clustered" else None
    drawn = list(itertools.islice(stream(popularity, rng, locality, shift_after), requests))
    return Scene(things, popularity, drawn, case.slots * sum(thing.size for thing in things) // count)


def loads_s(played: Scene, policy: Policy) -> list[float]:
    """Return the seconds that each request waited for a load."""
    cache = policy(played.things, played.budget)
    return [0.0 if cache(thing_id) else played.things[thing_id].load_s for thing_id in played.requests]


def bound_s(played: Scene, start: int) -> float:
    """Return the least load-seconds of any policy from request ``start`` on, if requests are independent.

    A policy that knows the popularity keeps the things of most benefit per byte (the last one in part), and a thing
    that was never requested before has to be loaded.
    """
    things, requests = played.things, played.requests[start:]

    def benefit(thing_id: int) -> float:
        return played.popularity[thing_id] * things[thing_id].load_s / things[thing_id].size

    kept_parts, room = dict[int, float](), played.budget
    for thing_id in sorted(range(len(things)), key=benefit, reverse=True):
        kept_parts[thing_id] = min(1.0, room / things[thing_id].size)
        room -= round(kept_parts[thing_id] * things[thing_id].size)
        if room <= 0:
            break
    missed_s = sum((1.0 - kept_parts.get(thing_id, 0.0)) * things[thing_id].load_s for thing_id in requests)
    new = set(requests) - set(played.requests[:start])
    return max(missed_s, sum(things[thing_id].load_s for thing_id in new))


def steady(
    case: Case, points: Points, seed: int, requests: int, policies: Mapping[str, Policy] = POLICIES
) -> dict[str, float]:
    """Return load-seconds over LRU's after a warm-up, by policy, with the bound where requests are independent."""
    played = scene(case, points, seed, WARM_UP + requests)
    totals = {name: sum(loads_s(played, policy)[WARM_UP:]) for name, policy in policies.items()}
    if case.setting != "clustered":
        totals["bound"] = bound_s(played, WARM_UP)
    return {name: _ratio(total, totals["LRU"]) for name, total in totals.items()}


def after_shift(
    case: Case, points: Points, seeds: Iterable[int], policies: Mapping[str, Policy] = POLICIES
) -> dict[int, dict[str, float]]:
    """Return load-seconds over LRU's right after a shift, by window of requests and policy, over several shifts."""
    totals = {window: dict.fromkeys(policies, 0.0) for window in WINDOWS}
    for seed in seeds:
        played = scene(case, points, seed, WARM_UP + max(WINDOWS), shift_after=WARM_UP)
        for name, policy in policies.items():
            waits_s = loads_s(played, policy)[WARM_UP:]
            for window in WINDOWS:
                totals[window][name] += sum(waits_s[:window])
    return {
        window: {name: _ratio(total, by_policy["LRU"]) for name, total in by_policy.items()}
        for window, by_policy in totals.items()
    }


def _ratio(total: float, lru: float) -> float:
    return total / lru if lru else 1.0


def main(
    curves: Annotated[Path | None, typer.Option(help="Popularity curves (JSON) instead of those shipped.")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    seed: int = 0,
) -> None:
    """Print load-seconds over LRU's for every policy, curve and cache size: in a steady state and after a shift."""
    known = read_curves(curves) if curves else CURVES
    rows: list[tuple[str, Case, dict[str, float]]] = []
    for name, setting, slots in itertools.product(known, SETTINGS, SLOTS):
        case = Case(name, setting, slots)
        rows.append(("steady", case, steady(case, known[name], seed, MEASURED[case.kind])))
    for name, setting, slots in itertools.product(known, SETTINGS[:2], SLOTS[:3]):
        case = Case(name, setting, slots)
        seeds = range(seed, seed + SHIFT_SEEDS[case.kind])
        by_window = after_shift(case, known[name], seeds)
        rows.extend((AFTER.format(window), case, by_policy) for window, by_policy in by_window.items())
    for title in dict.fromkeys(when for when, _, _ in rows):
        _print(title, [(case, by_policy) for when, case, by_policy in rows if when == title])
    if to is not None:
        records = [
            {"when": when, "curve": case.curve, "setting": case.setting, "slots": case.slots, **by_policy}
            for when, case, by_policy in rows
        ]
        to.write_text(json.dumps(records, indent=2) + "\n")


def _print(title: str, rows: Sequence[tuple[Case, Mapping[str, float]]]) -> None:
    has_bound = any("bound" in by_policy for _, by_policy in rows)
    names = [*POLICIES, "bound"] if has_bound else [*POLICIES]
    table = Table("curve", "things", "slots", *names, title=f"load-seconds over LRU's: {title}")
    for case, by_policy in rows:
        cells = [f"{by_policy[name]:.3f}" if name in by_policy else "" for name in names]
        table.add_row(case.curve, case.setting, str(case.slots), *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
