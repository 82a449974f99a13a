"""What somebody should know now."""

from collections.abc import Mapping, Sequence
from typing import Any

from lego_serve.core.nodes.requests import process_of
from lego_serve.gateway.ui.watch import GONE_AFTER_S, Watch


def alerts_of(watch: Watch, models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what somebody should know now."""
    alerts = []
    if not all(gateway.facts["is_ready"] for gateway in watch.gateways.values()):
        alerts.append(_starting(watch, models))
    why = {each["subject"]: each for each in watch.decisions() if each["kind"] == "lost"}
    lost = {process_of(each["id"]): each for each in watch.replicas.values() if each["state"] == "lost"}
    for process, replica in lost.items():
        known = why.get(process, {})
        said = f"A {replica['component']} replica of {replica['model']} was lost."
        if replica["is_shared"]:
            said = "A shared worker was lost."
        href = f"/dashboard/requests/{known['job']}" if known.get("job") else "/dashboard/decisions"
        more = known.get("why", "Another is started in its place.")
        alerts.append(
            {
                "id": f"lost-{process}",
                "level": "warn",
                "since": replica["lost_at"],
                "said": said,
                "more": more[:1].upper() + more[1:].rstrip(".") + ".",
                "href": href,
            }
        )
    for name, gateway in watch.gateways.items():
        if watch.at - gateway.heard > GONE_AFTER_S:
            more = "What it had in hand is gone, and its part of the series is a gap."
            said = f"Gateway {name} does not answer."
            alerts.append(
                {
                    "id": f"gateway-{name}",
                    "level": "bad",
                    "since": gateway.heard,
                    "said": said,
                    "more": more,
                    "href": "",
                }
            )
    return alerts


def _starting(watch: Watch, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    nodes = [(f"{model['name']}.{node['component']}", node["up"]) for model in models for node in model["nodes"]]
    missing = [name for name, up in nodes if not up]
    more = f"{len(nodes) - len(missing)} of {len(nodes)} nodes answer"
    waits = f"; not yet {', '.join(missing[:6])}{', …' if len(missing) > 6 else ''}" if missing else ""
    since = min((gateway.heard - gateway.facts["up_s"] for gateway in watch.gateways.values()), default=watch.at)
    return {
        "id": "starting",
        "level": "warn",
        "since": round(since, 1),
        "said": "The server is starting, or has lost its models.",
        "more": f"{more}{waits}.",
        "href": "/dashboard/models",
    }
