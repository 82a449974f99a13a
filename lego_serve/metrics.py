"""Declares every Prometheus metric, and records what happened.

Names are in base units and labels come from small fixed sets: never a prompt, an id or a path.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from lego_serve.core.editing.reuse import ReuseStats, TemplateUse
from lego_serve.core.jobs.job import JobResult, TaskStats
from lego_serve.core.workflow.graph import Workflow

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1200)
SSIM = (0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
DECIBELS = (15, 20, 25, 30, 35, 40, 45, 50)
UNKNOWN_WORKFLOW = "none"  # of a request that ends before its workflow is known
LANES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one gateway process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        self.on_refusal: Callable[[str], None] = lambda reason: None
        self._declare_requests()
        self._declare_nodes()
        self._declare_adapters()
        self._declare_controlnets()
        self._declare_edits()
        self._declare_templates()

    def count_accepted(self) -> None:
        """Count a job that was admitted."""
        self._in_flight.inc()

    def count_left(self) -> None:
        """Count a job that ended, whatever its result."""
        self._in_flight.dec()

    def count_rejected(self, reason: str) -> None:
        """Count a request that was refused before it became a job."""
        self._rejected.labels(reason).inc()
        self.on_refusal(reason)

    def record_outcome(self, workflow: str, outcome: str, seconds: float) -> None:
        """Record the answer to a request for a known workflow: ``ok`` or an error's code."""
        self._requests.labels(workflow, outcome).inc()
        self._request_s.labels(workflow).observe(seconds)

    def count_refused(self, outcome: str) -> None:
        """Count a request of the Images API that ended before its workflow was known, by an error's code."""
        self._requests.labels(UNKNOWN_WORKFLOW, outcome).inc()
        if outcome not in ("over_capacity", "tenant_share"):  # which are counted as such
            self.on_refusal(outcome)

    def record_result(self, workflow: Workflow, result: JobResult) -> None:
        """Record a job that ended well, with the statistics of its nodes."""
        self._queue_s.labels(workflow.name).observe(result.queue_s)
        self._images.labels(workflow.name).inc(len(result.images))
        for name, stats in result.stats.items():
            node = workflow.nodes[name]
            labels = (node.kind, node.model)
            self._node_s.labels(*labels).observe(stats.run_s)
            if node.kind == "text_encode":
                (self._cache_hits if stats.cache_hit else self._cache_misses).labels(*labels).inc()
            self._record_addons(node.model, stats)
            if stats.reuse is not None:
                self._record_reuse(node.model, stats.reuse, len(result.images))
            for step_s, lanes in zip(stats.step_s, stats.step_lanes, strict=True):
                self._step_s.labels(node.model).observe(step_s)
                self._step_lanes.labels(node.model).observe(lanes)

    def record_comparison(
        self, workflow: str, quality: str, similarity: float, decibels: float, is_equal_outside: bool
    ) -> None:
        """Record an edit that was compared with its full computation: SSIM and PSNR in the mask."""
        self._edit_ssim.labels(workflow, quality).observe(similarity)
        self._edit_psnr.labels(workflow, quality).observe(decibels)
        self._changed_outside.labels(workflow).inc(0 if is_equal_outside else 1)

    def set_template_use(self, model: str, use: TemplateUse) -> None:
        """Set what all replicas of a model keep of templates now."""
        self._template_entries.labels(model).set(use.entries)
        self._template_used.labels(model).set(use.used_bytes)
        self._template_budget.labels(model).set(use.budget_bytes)

    def record_dataflow_check(self, is_ok: bool) -> None:
        """Record a check of the dataflow's invariants."""
        self._dataflow_checks.labels("ok" if is_ok else "broken").inc()

    def page(self, environment: Mapping[str, str] | None = None) -> bytes:
        """Return the exposition text; of all gateways together where they share a folder."""
        folder = (environment or os.environ).get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _record_reuse(self, model: str, reuse: ReuseStats, images: int) -> None:
        self._edit_steps.labels(model, "masked").inc(reuse.masked_steps * images)
        self._edit_steps.labels(model, "whole").inc((reuse.steps - reuse.masked_steps) * images)
        self._template_primings.labels(model).inc(reuse.primed)
        self._template_evictions.labels(model).inc(reuse.evicted)

    def _record_addons(self, model: str, stats: TaskStats) -> None:
        """Record the adapters and ControlNets of a task, and the loads among them."""
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

    def _declare_requests(self) -> None:
        self._requests = self._counter("requests", "Requests answered.", "workflow", "outcome")
        self._request_s = self._histogram("request_duration_seconds", "Whole requests.", SECONDS, "workflow")
        self._queue_s = self._histogram("request_queue_seconds", "Waiting in nodes, per job.", SECONDS, "workflow")
        self._in_flight = self._gauge("requests_in_flight", "Jobs accepted and not ended.", "livesum")
        self._rejected = self._counter("requests_rejected", "Requests refused.", "reason")
        self._images = self._counter("images", "Images made.", "workflow")
        self._dataflow_checks = self._counter("dataflow_checks", "Checks of the dataflow's invariants.", "result")

    def _declare_nodes(self) -> None:
        self._node_s = self._histogram("node_duration_seconds", "Running in a node.", SECONDS, "node", "model")
        self._step_s = self._histogram("denoise_step_seconds", "Forward passes of the backbone.", SECONDS, "model")
        self._step_lanes = self._histogram("denoise_step_lanes", "Lanes that share a forward pass.", LANES, "model")
        self._cache_hits = self._counter("cache_hits", "Answers from a node's cache.", "node", "model")
        self._cache_misses = self._counter("cache_misses", "Cacheable calls computed.", "node", "model")

    def _declare_adapters(self) -> None:
        self._adapter_hits = self._counter("adapter_hits", "Adapters found in a cache.", "model")
        self._adapter_loads = self._counter("adapter_loads", "Adapters that had to be loaded.", "model")
        self._adapter_load_s = self._histogram("adapter_load_seconds", "Loads of adapters.", SECONDS, "model")
        self._adapter_bytes = self._counter("adapter_loaded_bytes", "Bytes of adapters loaded.", "model")

    def _declare_controlnets(self) -> None:
        self._controlnet_hits = self._counter("controlnet_hits", "ControlNets found in a cache.", "model")
        self._controlnet_loads = self._counter("controlnet_loads", "ControlNets that had to be loaded.", "model")
        self._controlnet_load_s = self._histogram("controlnet_load_seconds", "Loads of ControlNets.", SECONDS, "model")
        self._controlnet_bytes = self._counter("controlnet_loaded_bytes", "Bytes of ControlNets loaded.", "model")

    def _declare_edits(self) -> None:
        self._edit_ssim = self._histogram(
            "edit_ssim", "SSIM in the mask of edits compared with their full computation.", SSIM, "workflow", "quality"
        )
        self._edit_psnr = self._histogram(
            "edit_psnr_decibels", "PSNR in the mask of such edits.", DECIBELS, "workflow", "quality"
        )
        self._changed_outside = self._counter(
            "edit_outside_mask_changes", "Compared edits that changed a pixel outside the mask.", "workflow"
        )
        self._edit_steps = self._counter("edit_steps", "Steps of edits of images.", "model", "computed")

    def _declare_templates(self) -> None:
        self._template_primings = self._counter(
            "template_primings", "Passes over templates for what edits read.", "model"
        )
        self._template_evictions = self._counter("template_evictions", "Entries evicted for others.", "model")
        # Every gateway hears the same of all replicas: the latest value is the whole.
        latest: Literal["livemostrecent"] = "livemostrecent"
        self._template_entries = self._gauge("template_entries", "Entries kept, in all replicas.", latest, "model")
        self._template_used = self._gauge("template_used_bytes", "Bytes of these entries.", latest, "model")
        self._template_budget = self._gauge("template_budget_bytes", "Bytes they may take.", latest, "model")

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"lego_serve_{name}", help_text, labels, registry=self._registry)

    def _gauge(
        self, name: str, help_text: str, across_processes: Literal["livesum", "livemostrecent"], *labels: str
    ) -> Gauge:
        return Gauge(
            f"lego_serve_{name}", help_text, labels, registry=self._registry, multiprocess_mode=across_processes
        )

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"lego_serve_{name}", help_text, labels, buckets=buckets, registry=self._registry)
