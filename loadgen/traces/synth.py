"""Synthetic traces with the statistics of a published one."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from loadgen.popularity import shares, stream
from loadgen.traces.arrival import GENERATION, Arrival
from loadgen.traces.image_traces import diflow_arrival
from loadgen.traces.profiles import Popularity, Quantiles, Scene, Shares, TraceProfile

REDRAWS = 20  # until an add-on is given up that a request already has


def synthesise(profile: TraceProfile, count: int, rate_rps: float | None, seed: int) -> list[Arrival]:
    """Return ``count`` requests, at the trace's own rate where none is given; the same seed gives the same."""
    rng = random.Random(f"{seed}/{profile.name}")
    generator = np.random.default_rng(rng.getrandbits(64))
    times_s = profile.gaps.times_s(count, rate_rps or profile.rate_rps, generator)
    workflows = _workflows(profile, rng)
    addons = {name: _Addons(scene, rng) for name, scene in profile.scenes.items()}
    scenes = {name: scene.share for name, scene in profile.scenes.items()}
    arrivals = []
    for at_s in times_s:
        workflow, tenant = next(workflows)
        arrival = diflow_arrival(float(at_s), workflow) if profile.name == "diflow" else Arrival(float(at_s), workflow)
        scene = _choose(scenes, rng, "")
        images = int(_choose(profile.images, rng, "1"))
        arrivals.append(
            replace(
                arrival,
                tenant=tenant or scene,
                kind=_choose(profile.kinds, rng, GENERATION),
                controlnets=addons[scene].controlnets() if scene in addons else arrival.controlnets,
                adapters=addons[scene].adapters() if scene in addons else (),
                images=images,
                steps=int(steps) if (steps := _choose(profile.steps, rng, "")) else arrival.steps,
                solo_s=_solo_s(profile, images, rng) or arrival.solo_s,
                source=_lengths(profile, rng),
            )
        )
    return arrivals


def _workflows(profile: TraceProfile, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield each request's workflow and tenant without end."""
    names = _names(profile.workflows, rng) if profile.workflows else None
    tenants = _names(profile.tenants, rng) if profile.tenants else itertools.repeat("")
    last: dict[str, str] = {}
    for tenant in tenants:
        workflow = last.get(tenant, "") if tenant and rng.random() < profile.tenant_repeats else ""
        workflow = workflow or (next(names) if names else _choose(profile.labels, rng, profile.name))
        last[tenant] = workflow
        yield workflow, tenant


class _Addons:
    """Draws the ControlNets and adapters of one service's requests."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self._rng, self._scene = rng, scene
        self._controlnets = _names(scene.controlnets, rng) if scene.controlnets else iter(())
        self._adapters = _names(scene.adapters, rng) if scene.adapters else iter(())

    def controlnets(self) -> tuple[str, ...]:
        """Return the ControlNets of one request, all different."""
        return self._draw(self._controlnets, self._scene.controlnet_counts)

    def adapters(self) -> tuple[str, ...]:
        """Return the adapters of one request, all different."""
        return self._draw(self._adapters, self._scene.adapter_counts)

    def _draw(self, names: Iterator[str], counts: Sequence[float]) -> tuple[str, ...]:
        [count] = self._rng.choices(range(len(counts)), counts)
        drawn = dict.fromkeys(itertools.islice(names, count))
        for name in itertools.islice(names, REDRAWS if len(drawn) < count else 0):
            drawn[name] = None
            if len(drawn) == count:
                break
        return tuple(drawn)


def _names(popularity: Popularity, rng: random.Random) -> Iterator[str]:
    width = len(str(popularity.count - 1))
    for index in stream(shares(popularity.curve, popularity.count), rng, popularity.locality):
        yield f"{popularity.prefix}{index:0{width}d}"


def _choose(weights: Shares, rng: random.Random, default: str) -> str:
    return rng.choices(list(weights), list(weights.values()))[0] if weights else default


def _solo_s(profile: TraceProfile, images: int, rng: random.Random) -> float | None:
    table = profile.solo_s.get(str(images)) or profile.solo_s.get("1")
    return round(_quantile(table, rng.random()), 3) if table else None


def _lengths(profile: TraceProfile, rng: random.Random) -> Mapping[str, object]:
    if not profile.input_tokens:
        return {}
    return {
        "input_length": round(_quantile(profile.input_tokens, rng.random())),
        "output_length": round(_quantile(profile.output_tokens, rng.random())),
    }


def _quantile(table: Quantiles, share: float) -> float:
    below, above = zip(*table, strict=True)
    return float(np.interp(share, below, above))
