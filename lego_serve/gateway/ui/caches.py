"""What replicas keep in memory, how often it was found there, and what comparing edits has come to."""

from collections.abc import Mapping, Sequence
from typing import Any

from lego_serve.core.nodes.requests import process_of
from lego_serve.gateway.ui.watch import GONE, OF_WORKERS, SHARED_WORKERS, Watch


def caches_of(watch: Watch) -> dict[str, Any]:
    """Return what is kept in memory by kind and model, and how often it was found."""
    found: dict[str, list[int]] = {}
    for gateway in watch.gateways.values():
        for what, (hits, misses) in gateway.found.items():
            total = found.setdefault(what, [0, 0])
            total[0], total[1] = total[0] + hits, total[1] + misses
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for replica in watch.replicas.values():
        memory: Mapping[str, Sequence[int]] = replica["memory"] if replica["state"] not in GONE else {}
        for kind, uses in memory.items():
            model, place = replica["model"], (replica["id"], replica["component"])
            if kind in OF_WORKERS:  # a worker has one place for the nodes of all models
                model, place = SHARED_WORKERS, (process_of(replica["id"]), "worker")
            _add(rows.setdefault((kind, model), _cache(kind, model)), *place, *uses)
    for what, (hits, misses) in found.items():
        kind, _, model = what.partition(" ")
        rows.setdefault((kind, model), _cache(kind, model)).update(hits=hits, misses=misses)
    comparisons = [each for gateway in watch.gateways.values() for each in gateway.comparisons]
    data = [row for (kind, _), row in sorted(rows.items()) if kind != "weights"]
    return {"object": "caches", "data": data, "comparisons": _together(comparisons)}


def _add(row: dict[str, Any], replica: str, component: str, used: int, budget: int, evicted: int) -> None:
    """Add what a replica keeps; of what several nodes keep in one place, the budget counts once."""
    known = next((each for each in row["replicas"] if each["id"] == replica), None)
    if known is None:
        known = {"id": replica, "component": component, "used": 0, "budget": budget, "evicted": 0}
        row["replicas"].append(known)
        row["budget"] += budget
    for name, more in (("used", used), ("evicted", evicted)):
        known[name], row[name] = known[name] + more, row[name] + more


def caches_by_kind(watch: Watch) -> list[dict[str, Any]]:
    """Return each kind of all models together."""
    every = watch.once("caches", lambda: caches_of(watch))
    kinds: dict[str, dict[str, Any]] = {}
    for row in every["data"]:
        known = kinds.setdefault(row["kind"], {"kind": row["kind"]})
        for name in ("hits", "misses", "used", "budget", "evicted"):
            known[name] = known.get(name, 0) + row[name]
    compared = every["comparisons"]
    if compared:
        count = sum(each["count"] for each in compared)
        mean = sum(each["mean"] * each["count"] for each in compared) / count
        floors = [each["floor"] for each in compared if each["floor"] is not None]
        kinds["edits"] = {"kind": "edits", "count": count, "mean": round(mean, 4), "floor": max(floors, default=None)}
    return list(kinds.values())


def _together(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the comparisons of several gateways, those of one class as one."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for each in comparisons:
        known = found.setdefault((each["workflow"], each["class"], each["quality"]), {**each, "count": 0, "mean": 0.0})
        count = known["count"] + each["count"]
        known["mean"] = round((known["mean"] * known["count"] + each["mean"] * each["count"]) / count, 5)
        known["count"] = count
    return [row for _, row in sorted(found.items())]


def _cache(kind: str, model: str) -> dict[str, Any]:
    return {"kind": kind, "model": model, "hits": 0, "misses": 0, "used": 0, "budget": 0, "evicted": 0, "replicas": []}
