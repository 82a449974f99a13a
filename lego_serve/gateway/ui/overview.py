"""The overview: figures of a window, alerts, and each model with its replicas."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lego_serve.core.jobs.series import COARSE_S, FINE_S, Bin, Series, percentile
from lego_serve.core.workflow.graph import is_backbone
from lego_serve.gateway.ui.alerts import alerts_of
from lego_serve.gateway.ui.caches import caches_by_kind
from lego_serve.gateway.ui.part import merged_series
from lego_serve.gateway.ui.watch import GONE, SHARED_WORKERS, Watch

SHOWN_MODELS = 8  # whose replicas are drawn in the overview
ALL_REPLICAS = 200  # above which only those are sent that are drawn
JUDGED = 400  # of the last requests of each gateway
GOAL = 0.95  # of requests within their target
NAMES = ("p50", "p95", "ok", "late", "failed", "refused", "images", "saved", "waiting")
COUNTED = (
    "accepted", "ok", "late", "failed", "expired", "refused", "cancelled", "images", "late_images", "computed", "full"
)  # fmt: skip
GATEWAY_CLOCKS = ("up_s", "heard_s")  # that are rounded, so that not every look says something new


def length_of(window_s: int) -> int:
    """Return the seconds of a point in a window."""
    return FINE_S if window_s <= 300 else COARSE_S


def series_of(
    watch: Watch, window_s: int, model: str = "", names: Sequence[str] = NAMES, last: int | None = None
) -> dict[str, Any]:
    """Return the series of a window, of all or of a model; only the ``last`` points where that is given.

    Of a model they are made of the requests that are remembered, so that what was refused is not among them.
    """
    length = length_of(window_s)
    count = window_s // length if last is None else last
    series = _series_of_model(watch, model) if model else _series(watch)
    smooth = 5  # points: percentiles of few requests would jump
    bins = series.last(length, count + smooth, watch.at)
    points = {name: [_point(name, bins, at, smooth, length) for at in range(smooth, len(bins))] for name in names}
    return {"object": "series", "step_s": length, "from": (bins[-1].index - count + 1) * length, "series": points}


def _series_of_model(watch: Watch, model: str) -> Series:
    """Return what became of the remembered requests that a model worked for."""
    workflows = {name for name, each in watch.context.runner.workflows.items() if model in each.models}
    series = Series()
    rows = [row for row in watch.rows() if row["workflow"] in workflows and row["state"] == "ended"]
    for row in sorted(rows, key=lambda row: row["created"] + row["age_s"]):
        is_ok, is_late, n = row["outcome"] == "ok", "late" in row["flags"], row["n"]
        is_failed = not is_ok and row["outcome"] != "job_cancelled"
        counts = {"ok": is_ok, "late": is_ok and is_late, "failed": is_failed, "images": n * is_ok}
        at = row["created"] + row["age_s"]
        series.add(at, {name: float(count) for name, count in counts.items()}, (row["age_s"],) if is_ok else ())
    return series


def _series(watch: Watch) -> Series:
    return watch.once("series", lambda: merged_series([*watch.gateways.values()]))


def overview_of(watch: Watch, window_s: int) -> dict[str, Any]:
    """Return the figures of a window, and how everything stands now."""
    length = length_of(window_s)
    bins = _series(watch).last(length, window_s // length, watch.at)
    counts = {name: sum(each.counts.get(name, 0) for each in bins) for name in COUNTED}
    seconds = [value for each in bins for value in each.seconds]
    live = [row for gateway in watch.gateways.values() for row in gateway.live]
    states = [row["state"] for row in live]
    judged = counts["ok"] + counts["failed"]
    up = min(window_s, max((float(g.facts.get("up_s", 0)) for g in watch.gateways.values()), default=window_s))
    span = max(up, float(length))
    return {
        "object": "overview",
        "at": round(watch.at, 3),
        "window_s": window_s,
        "gateways": [
            {
                **gateway.facts,
                "up_s": int(gateway.facts["up_s"] // 60 * 60),
                "heard_s": round(heard_s) if (heard_s := watch.at - gateway.heard) > 3 else 0,
            }
            for gateway in watch.gateways.values()
        ],
        "counts": {name: round(count) for name, count in counts.items() if name not in ("computed", "full")}
        | {"in_flight": len(live)}
        | {state: states.count(state) for state in ("waiting", "running", "paused")}
        | {"oldest_wait_s": max((row["age_s"] for row in live if row["state"] == "waiting"), default=0)},
        "target": {
            "goal": GOAL,
            "within": None if not judged else round((counts["ok"] - counts["late"]) / judged, 5),
            "median_s": _median_target_s(watch, window_s),
        },
        "rates": {
            "requests_s": round((judged + counts["cancelled"]) / span, 3),
            "images_s": round(counts["images"] / span, 3),
            "good_images_s": round((counts["images"] - counts["late_images"]) / span, 3),
        },
        "latency": {name: percentile(seconds, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        "work": {"full": round(counts["full"], 2), "computed": round(counts["computed"], 2)},
        "machines": len({each["machine"] for each in watch.replicas.values() if each["state"] not in GONE}),
        "alerts": alerts_of(watch, models := models_of(watch)),
        "models": models,
        "caches": caches_by_kind(watch),
        "templates": watch.templates,
    }


def _median_target_s(watch: Watch, window_s: int) -> float | None:
    """Return the target of the middle one of the last requests."""
    first = watch.at - window_s
    last = [row for gateway in watch.gateways.values() for row in list(gateway.ended)[-JUDGED:]]
    targets = [row["target_s"] for row in last if row["target_s"] is not None and row["created"] >= first]
    return percentile(targets, 0.5)


def models_of(watch: Watch) -> list[dict[str, Any]]:
    """Return every model: its workflows, and its nodes with the replicas of each."""
    workflows = watch.context.runner.workflows
    parts: dict[str, set[str]] = {}
    used: dict[str, list[str]] = {}
    for name, workflow in sorted(workflows.items()):
        for node in workflow.nodes.values():
            parts.setdefault(node.model, set()).add(node.component)
        for model in workflow.models:
            used.setdefault(model, []).append(name)
    for replica in watch.replicas.values():
        parts.setdefault(replica["model"], set()).add(replica["component"])
    live = [row for gateway in watch.gateways.values() for row in gateway.live]
    waiting = Counter(row["workflow"] for row in live if row["state"] == "waiting")
    by_node: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for replica in watch.replicas.values():
        by_node.setdefault((replica["model"], replica["component"]), []).append(replica)
    within, facts = _within(watch), watch.context.settings.models
    models = []
    for model, components in sorted(parts.items()):
        own = [each for component in components for each in by_node.get((model, component), ())]
        models.append(
            {
                "name": model,
                "family": facts[model].family if model in facts else "",
                "dtype": facts[model].dtype if model in facts else "",
                "device": facts[model].device if model in facts else "",
                "workflows": used.get(model, []),
                "waiting": sum(waiting[name] for name in used.get(model, [])),
                "running": sum(each["load"]["running"] for each in own if is_backbone(each["component"])),
                "within": within(used.get(model, [])),
                "found": _found(watch, model),
                "nodes": [
                    _node(watch, model, component, by_node.get((model, component), []))
                    for component in sorted(components, key=_order)
                ],
            }
        )
    if len(models) <= SHOWN_MODELS:
        return models
    return sorted(models, key=lambda model: (-_trouble(model), model["name"]))


def _found(watch: Watch, model: str) -> float | None:
    """Return the share of a model's prompts that were encoded already."""
    hits = misses = 0
    for gateway in watch.gateways.values():
        found = gateway.found.get(f"prompts {model}", (0, 0))
        hits, misses = hits + found[0], misses + found[1]
    return round(hits / (hits + misses), 3) if hits + misses else None


def shown_replicas(watch: Watch, models: Sequence[Mapping[str, Any]], wanted: str) -> dict[str, Mapping[str, Any]]:
    """Return the replicas to show: all, or of many those of the first models, and of the model that is looked at."""
    if len(watch.replicas) <= ALL_REPLICAS:
        return dict(watch.replicas)
    names = {wanted, *(model["name"] for model in models[:SHOWN_MODELS])}
    return {name: card for name, card in watch.replicas.items() if card["model"] in names}


def _trouble(model: Mapping[str, Any]) -> int:
    """Return how much a model wants to be looked at: what is lost, then what waits."""
    return int(model["waiting"] + 100 * sum(node["lost"] for node in model["nodes"]))


def _within(watch: Watch) -> Callable[[Sequence[str]], float | None]:
    """Return what tells the share of some workflows' last requests that were answered within their target."""
    judged: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for gateway in watch.gateways.values():
        for row in list(gateway.ended)[-JUDGED:]:
            if row["outcome"] != "job_cancelled":
                judged[row["workflow"]] += 1
                good[row["workflow"]] += row["outcome"] == "ok" and "late" not in row["flags"]

    def share(workflows: Sequence[str]) -> float | None:
        all_of_them = sum(judged[name] for name in workflows)
        return round(sum(good[name] for name in workflows) / all_of_them, 4) if all_of_them else None

    return share


def _node(watch: Watch, model: str, component: str, replicas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = f"{model}.{component}"
    name = SHARED_WORKERS if any(each["is_shared"] for each in replicas) else own
    scale = watch.scales.nodes.get(name)
    states = [replica["state"] for replica in replicas]
    up = states.count("up")
    return {
        "component": component,
        "scaled_as": name,
        "target": None if scale is None else scale.target,
        "min": None if scale is None else scale.bounds.min,
        "max": None if scale is None else scale.bounds.max,
        "is_pinned": scale is not None and scale.is_pinned,
        "up": up,
        "starting": 0 if scale is None else max(0, scale.target - up),
        "draining": states.count("draining"),
        "lost": states.count("lost"),
    }


def _order(component: str) -> tuple[int, str]:
    usual = ("backbone", "text_encoder", "vae", "lora")
    return (usual.index(component) if component in usual else len(usual), component)


def _point(name: str, bins: Sequence[Bin], at: int, smooth: int, length: int) -> float | None:
    near = bins[max(0, at - smooth + 1) : at + 1]
    if name in ("p50", "p95"):
        value = percentile([each for near_bin in near for each in near_bin.seconds], int(name[1:]) / 100)
        return None if value is None else round(value, 4)
    if name == "saved":
        full, computed = _sum(near, "full"), _sum(near, "computed")
        return round(1 - computed / full, 4) if full else None
    if name == "waiting":
        looks = _sum(near, "looks")
        return round(_sum(near, "waiting") / looks, 2) if looks else None
    if name == "ok":
        return round((bins[at].counts.get("ok", 0) - bins[at].counts.get("late", 0)) / length, 3)
    return round(bins[at].counts.get(name, 0) / length, 3)


def _sum(bins: Iterable[Bin], name: str) -> float:
    return sum(each.counts.get(name, 0) for each in bins)
