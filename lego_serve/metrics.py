"""Records what happened in Prometheus metrics.

Names are in base units and labels come from small fixed sets: never a prompt, an id or a path.
"""

import os
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from lego_serve.core.durable_jobs.store import JobCounts
from lego_serve.core.editing.reuse import ReuseStats, TemplateUse
from lego_serve.core.jobs.job import JobResult, TaskStats
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.core.workflow.graph import Workflow
from lego_serve.process.metric_series import MetricSeries
from lego_serve.process.metrics_page import WithInFlight

UNKNOWN_WORKFLOW = "none"  # of a request that ends before its workflow is known
Ending: TypeAlias = Literal["completed", "failed", "cancelled", "expired"]
# What a request ends with that the server owed an image, in time.
MISSES = frozenset(
    {
        *("deadline_exceeded", "over_capacity", "tenant_share", "node_failed", "replica_lost", "controlnet_late"),
        *("internal_error", "server_stopping", "server_starting", "store_unavailable"),
    }
)
TOKEN_PIXELS = 16 * 16


class Metrics(MetricSeries):
    """The metrics of one gateway process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry or CollectorRegistry())
        self.on_refusal: Callable[[str], None] = lambda reason: None

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
        for state in ("queued", "in_progress", "unreadable"):
            self._durable_jobs.labels(state).set(getattr(counts, state))
        self._webhook_backlog.set(counts.messages)

    def count_durable_end(self, outcome: str) -> None:
        """Count a durable job that ended: ``completed``, ``failed``, ``cancelled`` or ``expired``."""
        self._durable_ended.labels(outcome).inc()

    def count_decision(self, kind: str) -> None:
        """Count a decision that was made about jobs or replicas, by its kind."""
        self._decisions.labels(kind).inc()

    def count_retry(self, node: str, model: str) -> None:
        """Count a call that is made again since its replica was lost or left, however its job ends."""
        self._retries.labels(node, model).inc()

    def count_redone(self, model: str, steps: int) -> None:
        """Count steps that are computed again for the same reason."""
        self._steps_redone.labels(model).inc(steps)

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
        """Record a job that ended well, with the statistics of its nodes; the workflow is as the job ran it."""
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
            if node.kind == "denoise":
                self._record_tokens(node.model, stats, len(result.images), pixels)
            if node.kind == "text_encode":
                (self._cache_hits if stats.cache_hit else self._cache_misses).labels(*labels).inc()
            self._record_addons(node.model, stats)
            if stats.reuse is not None:
                self._record_reuse(node.model, stats.reuse, len(result.images))
            for step_s, lanes in zip(stats.step_s, stats.step_lanes, strict=True):
                self._step_s.labels(node.model, node.tier).observe(step_s)
                self._step_lanes.labels(node.model, node.tier).observe(lanes)
            for rows in stats.step_rows:
                self._step_rows.labels(node.model, node.tier).observe(rows)

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
