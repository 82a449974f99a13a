"""The Grafana dashboard, as values: every panel is a row of the table below."""

import json
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 8, 7  # of 24 units a row
BY_WORKFLOW, BY_MODEL, BY_NODE = "{{workflow}}", "{{model}}", "{{model}} {{node}}"
BY_WEIGHTS = "{{model}} {{tier}}"  # the tier is empty but where it has a checkpoint of its own


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: title, unit, and one query with its legend."""

    title: str
    unit: str
    query: str
    legend: str = ""


def rate(metric: str, by: str = "") -> str:
    """A counter's rate, summed by labels."""
    return f"sum{f' by ({by})' if by else ''} (rate(lego_serve_{metric}_total[$__rate_interval]))"


def quantile(metric: str, by: str, share: float = 0.95) -> str:
    """A histogram's quantile, by labels."""
    buckets = f"sum by (le, {by}) (rate(lego_serve_{metric}_bucket[$__rate_interval]))"
    return f"histogram_quantile({share}, {buckets})"


def mean(metric: str, by: str) -> str:
    """A histogram's mean, by labels."""
    parts = [f"sum by ({by}) (rate(lego_serve_{metric}_{part}[$__rate_interval]))" for part in ("sum", "count")]
    return " / ".join(parts)


def share(part: str, rest: str, by: str) -> str:
    """A counter's share of two, by labels."""
    return f"{rate(part, by)} / ({rate(part, by)} + {rate(rest, by)})"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Requests": (
        Panel("Requests by outcome", "reqps", rate("requests", "outcome"), "{{outcome}}"),
        Panel("Answered in time", "percentunit", share("slo_attained", "slo_missed", "workflow"), BY_WORKFLOW),
        Panel("Duration, 95th percentile", "s", quantile("request_duration_seconds", "workflow"), BY_WORKFLOW),
        Panel("Waiting, 95th percentile", "s", quantile("request_queue_seconds", "workflow"), BY_WORKFLOW),
        Panel("Refused", "reqps", rate("requests_rejected", "reason"), "{{reason}}"),
        Panel("Images", "ops", rate("images", "workflow"), BY_WORKFLOW),
    ),
    "Jobs": (
        Panel("In flight", "short", "sum(lego_serve_requests_in_flight)"),
        Panel("In flight by state", "short", "sum by (state) (lego_serve_jobs)", "{{state}}"),
        Panel("Ends", "ops", rate("jobs_ended", "outcome"), "{{outcome}}"),
        Panel("Accepted", "ops", rate("jobs_accepted")),
        Panel("Ready gateways", "short", "sum(lego_serve_ready_gateways)"),
        Panel("Durable jobs", "short", "max by (state) (lego_serve_durable_jobs)", "{{state}}"),
        Panel("Durable jobs' ends", "ops", rate("durable_jobs_ended", "outcome"), "{{outcome}}"),
        Panel("Messages still to be sent", "short", "max(lego_serve_webhook_backlog)"),
        Panel("Decisions", "ops", rate("decisions", "kind"), "{{kind}}"),
        Panel("Gateways without their store", "short", "sum(lego_serve_gateways_without_store)"),
        Panel("Checks of the book-keeping", "ops", rate("dataflow_checks", "result"), "{{result}}"),
    ),
    "Nodes": (
        Panel("Time in nodes, 95th percentile", "s", quantile("node_duration_seconds", "model, node"), BY_NODE),
        Panel("Waiting for nodes, 95th percentile", "s", quantile("node_queue_seconds", "model, node"), BY_NODE),
        Panel("Calls computed together", "short", mean("node_batch_size", "model, node"), BY_NODE),
        Panel("Step, 95th percentile", "s", quantile("denoise_step_seconds", "model, tier"), BY_WEIGHTS),
        Panel("Lanes in a step", "short", mean("denoise_step_lanes", "model, tier"), BY_WEIGHTS),
        Panel("Token rows in a step", "short", mean("denoise_step_rows", "model, tier"), BY_WEIGHTS),
        Panel("Calls made again", "ops", rate("node_retries", "model, node"), BY_NODE),
        Panel("Steps redone", "ops", rate("steps_redone", "model"), BY_MODEL),
        Panel("Tokens computed", "ops", rate("denoise_tokens", "model"), BY_MODEL),
        Panel(
            "Tokens of edits not computed",
            "percentunit",
            share("denoise_tokens_saved", "denoise_tokens", "model"),
            BY_MODEL,
        ),
    ),
    "Caches": (
        Panel("Prompts found", "percentunit", share("cache_hits", "cache_misses", "model"), BY_MODEL),
        Panel("Adapters found", "percentunit", share("adapter_hits", "adapter_loads", "model"), BY_MODEL),
        Panel("Adapter loads, 95th percentile", "s", quantile("adapter_load_seconds", "model"), BY_MODEL),
        # Every gateway hears the same of all replicas.
        Panel(
            "Bytes kept", "bytes", "max by (model, node, kind) (lego_serve_memory_used_bytes)", BY_NODE + " {{kind}}"
        ),
        Panel("Template bytes", "bytes", "max by (model) (lego_serve_template_used_bytes)", BY_MODEL),
        Panel("Template budget", "bytes", "max by (model) (lego_serve_template_budget_bytes)", BY_MODEL),
        Panel("Template entries evicted", "ops", rate("template_evictions", "model"), BY_MODEL),
        Panel("ControlNets found", "percentunit", share("controlnet_hits", "controlnet_loads", "model"), BY_MODEL),
        Panel("Similarity of checked edits, median", "short", quantile("edit_ssim", "workflow", 0.5), BY_WORKFLOW),
        Panel("Pixels changed outside masks", "short", rate("edit_outside_mask_changes", "workflow"), BY_WORKFLOW),
    ),
}


def dashboard() -> dict[str, Any]:
    """The whole dashboard, in Grafana's form."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": _place(0, y, 24, 1), "panels": []}
        )
        y += 1
        for index, panel in enumerate(row):
            where = _place(index % 3 * WIDTH, y + index // 3 * HEIGHT, WIDTH, HEIGHT)
            panels.append(_graph(len(panels) + 1, panel, where))
        y += -(-len(row) // 3) * HEIGHT
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "lego-serve",
        "title": "lego_serve",
        "schemaVersion": 36,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def text() -> str:
    """The dashboard as the file that Grafana loads."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _graph(number: int, panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    target = {"refId": "A", "datasource": SOURCE, "expr": panel.query, "legendFormat": panel.legend or "__auto"}
    defaults = {"unit": panel.unit, "min": 0, "custom": {"lineWidth": 1, "fillOpacity": 5}}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "gridPos": where,
        "datasource": SOURCE,
        "targets": [target],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }
