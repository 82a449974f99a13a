"""Every Prometheus metric in one table, and the functions that observe what happened.

Names are in base units and labels come from small fixed sets: never a prompt, an id or a path.
"""

import os
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from lego_serve.core.editing.reuse import ReuseStats, TemplateUse
from lego_serve.core.jobs.job import JobResult, TaskStats
from lego_serve.core.workflow.graph import Workflow

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1200)
LIKENESS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
DB = (15, 20, 25, 30, 35, 40, 45, 50)
LANES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one gateway process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        at = self._registry
        self._requests = Counter("lego_serve_requests", "Requests answered.", ("workflow", "outcome"), registry=at)
        self._request_s = Histogram(
            "lego_serve_request_duration_seconds", "Whole requests.", ("workflow",), buckets=SECONDS, registry=at
        )
        self._queue_s = Histogram(
            "lego_serve_request_queue_seconds",
            "Waiting in nodes, per job.",
            ("workflow",),
            buckets=SECONDS,
            registry=at,
        )
        self._in_flight = Gauge(
            "lego_serve_requests_in_flight", "Jobs accepted and not ended.", multiprocess_mode="livesum", registry=at
        )
        self._rejected = Counter("lego_serve_requests_rejected", "Requests refused.", ("reason",), registry=at)
        self._node_s = Histogram(
            "lego_serve_node_duration_seconds", "Running in a node.", ("node", "model"), buckets=SECONDS, registry=at
        )
        self._step_s = Histogram(
            "lego_serve_denoise_step_seconds",
            "Forward passes of the backbone.",
            ("model",),
            buckets=SECONDS,
            registry=at,
        )
        self._step_lanes = Histogram(
            "lego_serve_denoise_step_lanes", "Lanes that share a forward pass.", ("model",), buckets=LANES, registry=at
        )
        self._cache_hits = Counter(
            "lego_serve_cache_hits", "Answers from a node's cache.", ("node", "model"), registry=at
        )
        self._cache_misses = Counter(
            "lego_serve_cache_misses", "Cacheable calls computed.", ("node", "model"), registry=at
        )
        self._images = Counter("lego_serve_images", "Images made.", ("workflow",), registry=at)

        self._adapter_hits = Counter("lego_serve_adapter_hits", "Adapters that were at hand.", ("model",), registry=at)
        self._adapter_loads = Counter(
            "lego_serve_adapter_loads", "Adapters that had to be loaded.", ("model",), registry=at
        )
        self._adapter_load_s = Histogram(
            "lego_serve_adapter_load_seconds", "Loads of adapters.", ("model",), buckets=SECONDS, registry=at
        )
        self._adapter_bytes = Counter(
            "lego_serve_adapter_loaded_bytes", "Bytes of adapters loaded.", ("model",), registry=at
        )
        self._declare_controlnets(at)

    def _declare_controlnets(self, at: CollectorRegistry) -> None:
        self._controlnet_hits = Counter(
            "lego_serve_controlnet_hits", "ControlNets that were at hand.", ("model",), registry=at
        )
        self._controlnet_loads = Counter(
            "lego_serve_controlnet_loads", "ControlNets that had to be loaded.", ("model",), registry=at
        )
        self._controlnet_load_s = Histogram(
            "lego_serve_controlnet_load_seconds", "Loads of ControlNets.", ("model",), buckets=SECONDS, registry=at
        )
        self._controlnet_bytes = Counter(
            "lego_serve_controlnet_loaded_bytes", "Bytes of ControlNets loaded.", ("model",), registry=at
        )

        self._likeness = Histogram(
            "lego_serve_edit_ssim",
            "SSIM in the mask of edits compared with their full computation.",
            ("workflow", "quality"),
            buckets=LIKENESS,
            registry=at,
        )
        self._likeness_db = Histogram(
            "lego_serve_edit_psnr_decibels", "The same as PSNR.", ("workflow", "quality"), buckets=DB, registry=at
        )
        self._spilt = Counter(
            "lego_serve_edit_outside_mask_changes",
            "Compared edits that changed a pixel outside.",
            ("workflow",),
            registry=at,
        )
        self._edit_steps = Counter(
            "lego_serve_edit_steps", "Steps of edits of images.", ("model", "computed"), registry=at
        )
        self._primings = Counter(
            "lego_serve_template_primings", "Passes over templates for what edits read.", ("model",), registry=at
        )
        self._evictions = Counter(
            "lego_serve_template_evictions", "Entries that went for others.", ("model",), registry=at
        )
        # Every gateway hears the same of all replicas.
        shared: dict[str, Any] = {"labelnames": ("model",), "registry": at, "multiprocess_mode": "livemostrecent"}
        self._entries = Gauge("lego_serve_template_entries", "Entries kept, in all replicas.", **shared)
        self._used = Gauge("lego_serve_template_used_bytes", "What they take.", **shared)
        self._budget = Gauge("lego_serve_template_budget_bytes", "What they may take.", **shared)

    def count_accepted(self) -> None:
        """A job entered."""
        self._in_flight.inc()

    def count_left(self) -> None:
        """A job left, whatever came of it."""
        self._in_flight.dec()

    def record_outcome(self, workflow: str, outcome: str, seconds: float) -> None:
        """A request for a known workflow was answered: ``ok`` or an error's code."""
        self._requests.labels(workflow, outcome).inc()
        self._request_s.labels(workflow).observe(seconds)

    def count_rejected(self, reason: str) -> None:
        """A request was refused before it became a job."""
        self._rejected.labels(reason).inc()

    def record_result(self, workflow: Workflow, result: JobResult) -> None:
        """A job ended well; its nodes' figures are taken over."""
        self._queue_s.labels(workflow.name).observe(result.queue_s)
        self._images.labels(workflow.name).inc(len(result.images))
        for name, stats in result.stats.items():
            node = workflow.nodes[name]
            labels = (node.kind, node.model)
            self._node_s.labels(*labels).observe(stats.run_s)
            if node.kind == "text_encode":
                (self._cache_hits if stats.cache_hit else self._cache_misses).labels(*labels).inc()
            self._addons(node.model, stats)
            if stats.reuse is not None:
                self._edited(node.model, stats.reuse, len(result.images))
            for step_s, lanes in zip(stats.step_s, stats.step_lanes, strict=True):
                self._step_s.labels(node.model).observe(step_s)
                self._step_lanes.labels(node.model).observe(lanes)

    def record_comparison(
        self, workflow: str, quality: str, likeness: float, decibels: float, is_equal_outside: bool
    ) -> None:
        """An edit that read activations was computed in full as well."""
        self._likeness.labels(workflow, quality).observe(likeness)
        self._likeness_db.labels(workflow, quality).observe(decibels)
        self._spilt.labels(workflow).inc(not is_equal_outside)

    def set_template_use(self, model: str, use: TemplateUse) -> None:
        """What all replicas of a model keep of templates now."""
        self._entries.labels(model).set(use.entries)
        self._used.labels(model).set(use.used_bytes)
        self._budget.labels(model).set(use.budget_bytes)

    def _edited(self, model: str, reuse: ReuseStats, images: int) -> None:
        self._edit_steps.labels(model, "masked").inc(reuse.masked_steps * images)
        self._edit_steps.labels(model, "whole").inc((reuse.steps - reuse.masked_steps) * images)
        self._primings.labels(model).inc(reuse.primed)
        self._evictions.labels(model).inc(reuse.evicted)

    def _addons(self, model: str, stats: TaskStats) -> None:
        """What was added to a model, and what of it had to be loaded."""
        for adapter in stats.adapters:
            if adapter.hit:
                self._adapter_hits.labels(model).inc()
                continue
            self._adapter_loads.labels(model).inc()
            self._adapter_load_s.labels(model).observe(adapter.load_s)
            self._adapter_bytes.labels(model).inc(adapter.bytes)
        for net in stats.controlnets:
            if net.hit:
                self._controlnet_hits.labels(model).inc()
                continue
            self._controlnet_loads.labels(model).inc()
            self._controlnet_load_s.labels(model).observe(net.load_s)
            self._controlnet_bytes.labels(model).inc(net.bytes)

    def page(self, environment: Mapping[str, str] | None = None) -> bytes:
        """The exposition text; of all gateways together where they share a folder."""
        folder = (environment or os.environ).get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)
