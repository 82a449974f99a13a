"""What the ledger saves: ``python -m benchmarks.cache.replay [--curves FILE]``.

Load-seconds of several policies over LRU's, on requests drawn from production popularity curves: in a steady state,
and right after all ranks of popularity are dealt anew.  Every policy sees the same requests.
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
    """One row: whose popularity, what the things and requests are like, and how much is kept."""

    curve: str
    setting: str  # alike, mixed (sizes and load times), clustered (mixed, and requests come in bursts)
    slots: int  # the bytes of so many things of mean size

    @property
    def kind(self) -> str:
        """What is asked for."""
        return self.curve.partition("_")[0]


@dataclass(frozen=True, slots=True)
class Scene:
    """The things there are, how popular each is, and who asked for what."""

    things: Sequence[Thing]
    popularity: Sequence[float]
    asked: Sequence[int]
    budget: int


def scene(case: Case, points: Points, seed: int, requests: int, shift_after: int | None = None) -> Scene:
    """Draw a scene; the same seed draws the same."""
    rng = random.Random(seed)
    count = CATALOGUE[case.kind]
    things = alike(count) if case.setting == "alike" else catalogue(case.kind, count, rng)
    popularity = shares(points, count)
    locality = CLUSTERING[case.curve] if case.setting == "clustered" else None
    asked = list(itertools.islice(stream(popularity, rng, locality, shift_after), requests))
    return Scene(things, popularity, asked, case.slots * sum(thing.size for thing in things) // count)


def loads_s(played: Scene, policy: Policy) -> list[float]:
    """What each request waited for loading."""
    cache = policy(played.things, played.budget)
    return [0.0 if cache(asked) else played.things[asked].load_s for asked in played.asked]


def bound_s(played: Scene, start: int) -> float:
    """Load-seconds from ``start`` on that no policy can do without, if requests are independent.

    Even who knows the popularity keeps no more than the best by benefit per byte (the last one in part), and what
    was never asked for before has to be loaded.
    """
    order = sorted(
        range(len(played.things)), key=lambda i: -played.popularity[i] * played.things[i].load_s / played.things[i].size
    )
    kept, room = dict[int, float](), played.budget
    for i in order:
        kept[i] = min(1.0, room / played.things[i].size)
        room -= round(kept[i] * played.things[i].size)
        if room <= 0:
            break
    missed = sum((1.0 - kept.get(asked, 0.0)) * played.things[asked].load_s for asked in played.asked[start:])
    new = set(played.asked[start:]) - set(played.asked[:start])
    return max(missed, sum(played.things[asked].load_s for asked in new))


def steady(
    case: Case, points: Points, seed: int, requests: int, policies: Mapping[str, Policy] = POLICIES
) -> dict[str, float]:
    """Load-seconds over LRU's after a warm-up, by policy, with the bound where requests are independent."""
    played = scene(case, points, seed, WARM_UP + requests)
    totals = {name: sum(loads_s(played, policy)[WARM_UP:]) for name, policy in policies.items()}
    if case.setting != "clustered":
        totals["bound"] = bound_s(played, WARM_UP)
    return {name: _ratio(total, totals["LRU"]) for name, total in totals.items()}


def after_shift(
    case: Case, points: Points, seeds: Iterable[int], policies: Mapping[str, Policy] = POLICIES
) -> dict[int, dict[str, float]]:
    """Load-seconds over LRU's in windows right after a shift, by window and policy, over several shifts."""
    totals = {window: dict.fromkeys(policies, 0.0) for window in WINDOWS}
    for seed in seeds:
        played = scene(case, points, seed, WARM_UP + max(WINDOWS), shift_after=WARM_UP)
        for name, policy in policies.items():
            waited = loads_s(played, policy)[WARM_UP:]
            for window in WINDOWS:
                totals[window][name] += sum(waited[:window])
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
        rows.extend((AFTER.format(w), case, found) for w, found in after_shift(case, known[name], seeds).items())
    for title in dict.fromkeys(row[0] for row in rows):
        _print(title, [(case, found) for when, case, found in rows if when == title])
    if to is not None:
        found = [{"when": w, "curve": c.curve, "setting": c.setting, "slots": c.slots, **f} for w, c, f in rows]
        to.write_text(json.dumps(found, indent=2) + "\n")


def _print(title: str, rows: Sequence[tuple[Case, Mapping[str, float]]]) -> None:
    names = [*POLICIES, "bound"] if any("bound" in found for _, found in rows) else [*POLICIES]
    table = Table("curve", "things", "slots", *names, title=f"load-seconds over LRU's: {title}")
    for case, found in rows:
        cells = [f"{found[name]:.3f}" if name in found else "" for name in names]
        table.add_row(case.curve, case.setting, str(case.slots), *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
