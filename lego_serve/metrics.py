"""Declares every Prometheus metric, and records what happened.

Names are in base units and labels come from small fixed sets: never a prompt, an id or a path.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from lego_serve.core.durable_jobs.store import JobCounts
from lego_serve.core.editing.reuse import ReuseStats, TemplateUse
from lego_serve.core.jobs.job import JobResult, TaskStats
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.core.workflow.graph import Workflow
from lego_serve.process.metrics_page import ACCEPTED, ENDED, ENDED_HELP, WithInFlight

# Each half as much again as the one before: a quantile between two of them is at most a quarter off.
SECONDS = tuple(round(0.005 * 1.5**power, 4) for power in range(31))  # to 960
SSIM = (0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
DECIBELS = (15, 20, 25, 30, 35, 40, 45, 50)
UNKNOWN_WORKFLOW = "none"  # of a request that ends before its workflow is known
LANES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ROWS = tuple(2**power for power in range(4, 18))  # to 131,072
Ending: TypeAlias = Literal["completed", "failed", "cancelled", "expired"]
# What a request ends with that the server owed an image, in time.
MISSES = frozenset(
    {
        *("deadline_exceeded", "over_capacity", "tenant_share", "node_failed", "replica_lost", "controlnet_late"),
        *("internal_error", "server_stopping", "server_starting", "store_unavailable"),
    }
)
TOKEN_PIXELS = 16 * 16
Labelled = TypeVar("Labelled", Counter, Histogram)
# Every gateway hears the same of all replicas and of the store: the latest value is the whole.
LATEST: Literal["livemostrecent"] = "livemostrecent"


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
        self._accepted.inc()

    def count_left(self, ending: Ending) -> None:
        """Count a job that ended."""
        self._ended.labels(ending).inc()

    def set_jobs(self, waiting: int, running: int, paused: int, is_ready: bool) -> None:
        """Set how the jobs in flight here stand, and whether this gateway is ready for more."""
        for state, count in (("waiting", waiting), ("running", running), ("paused", paused)):
            self._jobs.labels(state).set(count)
        self._ready.set(is_ready)

    def set_durable_jobs(self, counts: JobCounts) -> None:
        """Set how the durable jobs of all gateways stand, and the messages about their ends."""
        for state, count in (("queued", counts.queued), ("in_progress", counts.in_progress)):
            self._durable_jobs.labels(state).set(count)
        self._webhook_backlog.set(counts.messages)

    def count_durable_end(self, outcome: str) -> None:
        """Count a durable job that ended: ``completed``, ``failed``, ``cancelled`` or ``expired``."""
        self._durable_ended.labels(outcome).inc()

    def count_decision(self, kind: str) -> None:
        """Count a decision that was made about jobs or replicas, by its kind."""
        self._decisions.labels(kind).inc()

    def set_memory_use(self, node: str, model: str, uses: Mapping[str, tuple[int, int]]) -> None:
        """Set what all replicas of a node keep now, by the kind of thing: bytes, and how many they may be."""
        for kind, (used, budget) in uses.items():
            self._memory_used.labels(node, model, kind).set(used)
            self._memory_budget.labels(node, model, kind).set(budget)

    def set_scales(self, board: ScaleBoard) -> None:
        """Set how many replicas each node is to have, and how often that was changed."""
        for name, scale in board.nodes.items():
            self._replicas_wanted.labels(*name.rpartition(".")[::2]).set(scale.target)
        self._scale_changes.set(board.changes[-1].number if board.changes else 0)

    def set_store_away(self, is_away: bool) -> None:
        """Set whether this gateway cannot reach the store of durable jobs."""
        self._without_store.set(is_away)

    def count_rejected(self, reason: str) -> None:
        """Count a request that was refused before it became a job."""
        self._rejected.labels(reason).inc()
        self.on_refusal(reason)

    def count_webhook(self, outcome: str) -> None:
        """Count a try to send a webhook, by what became of it."""
        self._webhooks.labels(outcome).inc()

    def record_outcome(self, workflow: str, outcome: str, seconds: float) -> None:
        """Record the answer to a request for a known workflow: ``ok`` or an error's code."""
        self._requests.labels(workflow, outcome).inc()
        self._request_s.labels(workflow).observe(seconds)
        if outcome == "ok":
            self._attained.labels(workflow).inc()
        elif outcome in MISSES:
            self._missed.labels(workflow).inc()

    def count_refused(self, outcome: str) -> None:
        """Count a request of the Images API that ended before its workflow was known, by an error's code."""
        self._requests.labels(UNKNOWN_WORKFLOW, outcome).inc()
        if outcome not in ("over_capacity", "tenant_share"):  # which are counted as such
            self.on_refusal(outcome)

    def record_result(self, workflow: Workflow, result: JobResult) -> None:
        """Record a job that ended well, with the statistics of its nodes."""
        self._queue_s.labels(workflow.name).observe(result.queue_s)
        self._images.labels(workflow.name).inc(len(result.images))
        pixels = sum(image.width * image.height for image in result.images)
        self._pixels.labels(workflow.name).inc(pixels)
        for name, stats in result.stats.items():
            node = workflow.nodes[name]
            labels = (node.kind, node.model)
            self._node_s.labels(*labels).observe(stats.run_s)
            self._node_queue_s.labels(*labels).observe(stats.queue_s)
            self._batch_size.labels(*labels).observe(stats.batch_size)
            self._retries.labels(*labels).inc(max(0, stats.attempts - 1))
            if node.kind == "denoise":
                self._steps_redone.labels(node.model).inc(stats.steps_redone)
                self._record_tokens(node.model, stats, len(result.images), pixels)
            if node.kind == "text_encode":
                (self._cache_hits if stats.cache_hit else self._cache_misses).labels(*labels).inc()
            self._record_addons(node.model, stats)
            if stats.reuse is not None:
                self._record_reuse(node.model, stats.reuse, len(result.images))
            for step_s, lanes in zip(stats.step_s, stats.step_lanes, strict=True):
                self._step_s.labels(node.model).observe(step_s)
                self._step_lanes.labels(node.model).observe(lanes)
            for rows in stats.step_rows:
                self._step_rows.labels(node.model).observe(rows)

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
        counted: Collector = self._registry
        if folder:
            counted = MultiProcessCollector(None, path=folder)  # type: ignore[no-untyped-call]
        page = CollectorRegistry(auto_describe=False)
        page.register(WithInFlight(counted))
        return generate_latest(page)

    def _record_tokens(self, model: str, stats: TaskStats, images: int, pixels: int) -> None:
        """Count the image's tokens of all steps, and those that an edit did not have to compute."""
        if (reuse := stats.reuse) is None:
            self._tokens.labels(model).inc(len(stats.step_s) * pixels / TOKEN_PIXELS)
            return
        saved = reuse.masked_steps * (reuse.rows - reuse.active_rows)
        self._tokens.labels(model).inc(images * (reuse.steps * reuse.rows - saved))
        self._tokens_saved.labels(model).inc(images * saved)

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
        self._accepted = Counter(ACCEPTED, "Jobs accepted.", registry=self._registry)
        self._ended = Counter(ENDED, ENDED_HELP, ("outcome",), registry=self._registry)
        self._jobs = self._gauge("jobs", "Jobs in flight by state, as of the last seconds.", "livesum", "state")
        self._ready = self._gauge("ready_gateways", "Gateway processes that are ready.", "livesum")
        self._without_store = self._gauge("gateways_without_store", "Gateways without their store of jobs.", "livesum")
        self._attained = self._counter("slo_attained", "Requests answered well, in time.", "workflow")
        self._missed = self._counter("slo_missed", "Requests that the server could not answer in time.", "workflow")
        self._rejected = self._counter("requests_rejected", "Requests refused.", "reason")
        self._images = self._counter("images", "Images made.", "workflow")
        self._pixels = self._counter("image_pixels", "Pixels of these images.", "workflow")
        self._webhooks = self._counter("webhooks", "Tries to send a webhook.", "outcome")
        self._durable_jobs = self._gauge("durable_jobs", "Durable jobs that wait or run.", LATEST, "state")
        self._durable_ended = self._counter("durable_jobs_ended", "Durable jobs that ended here.", "outcome")
        self._webhook_backlog = self._gauge("webhook_backlog", "Messages that are still to be sent.", LATEST)
        self._decisions = self._counter("decisions", "Decisions about jobs and replicas.", "kind")
        self._dataflow_checks = self._counter("dataflow_checks", "Checks of the dataflow's invariants.", "result")

    def _declare_nodes(self) -> None:
        self._node_s = self._histogram("node_duration_seconds", "Running in a node.", SECONDS, "node", "model")
        self._node_queue_s = self._histogram("node_queue_seconds", "Waiting in a node.", SECONDS, "node", "model")
        self._batch_size = self._histogram("node_batch_size", "Calls computed together.", LANES, "node", "model")
        self._retries = self._counter("node_retries", "Calls made again as a replica was lost.", "node", "model")
        self._steps_redone = self._counter("steps_redone", "Steps computed again for the same reason.", "model")
        self._tokens = self._counter("denoise_tokens", "Tokens of images computed in steps.", "model")
        self._tokens_saved = self._counter("denoise_tokens_saved", "Tokens of edits read, not computed.", "model")
        self._step_s = self._histogram("denoise_step_seconds", "Forward passes of the backbone.", SECONDS, "model")
        self._step_lanes = self._histogram("denoise_step_lanes", "Lanes that share a forward pass.", LANES, "model")
        self._step_rows = self._histogram("denoise_step_rows", "Token rows of a forward pass.", ROWS, "model")
        labels = ("node", "model", "kind")
        self._memory_used = self._gauge("memory_used_bytes", "Bytes kept, in all replicas.", LATEST, *labels)
        self._memory_budget = self._gauge("memory_budget_bytes", "Bytes that may be kept.", LATEST, *labels)
        self._replicas_wanted = self._gauge("replicas_wanted", "Replicas a node is to have.", LATEST, "model", "node")
        self._scale_changes = self._gauge("scale_changes", "Changes of these numbers since the start.", LATEST)
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
        self._template_primings = self._counter("template_primings", "Passes over templates for edits.", "model")
        self._template_evictions = self._counter("template_evictions", "Entries evicted for others.", "model")
        self._template_entries = self._gauge("template_entries", "Entries kept, in all replicas.", LATEST, "model")
        self._template_used = self._gauge("template_used_bytes", "Bytes of these entries.", LATEST, "model")
        self._template_budget = self._gauge("template_budget_bytes", "Bytes they may take.", LATEST, "model")

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return _remembering(Counter(f"lego_serve_{name}", help_text, labels, registry=self._registry))

    def _gauge(
        self, name: str, help_text: str, across_processes: Literal["livesum", "livemostrecent"], *labels: str
    ) -> Gauge:
        return Gauge(
            f"lego_serve_{name}", help_text, labels, registry=self._registry, multiprocess_mode=across_processes
        )

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        made = Histogram(f"lego_serve_{name}", help_text, labels, buckets=buckets, registry=self._registry)
        return _remembering(made)


def _remembering(metric: Labelled) -> Labelled:
    """Return a metric that finds a label's values again at once: the library checks and locks for each look."""
    metric.labels = cache(metric.labels)  # type: ignore[method-assign]
    return metric
