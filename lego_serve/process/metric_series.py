"""The series of a gateway's metrics, and which of them exist from the start."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lego_serve.core.scheduling.admission import RejectReason
from lego_serve.core.workflow.graph import Workflow
from lego_serve.process.metrics_page import ACCEPTED, ENDED, ENDED_HELP

# Each half as much again as the one before: a quantile between two of them is at most a quarter off.
SECONDS = tuple(round(0.005 * 1.5**power, 4) for power in range(31))  # to 960
SSIM = (0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
DECIBELS = (15, 20, 25, 30, 35, 40, 45, 50)
LANES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ROWS = tuple(2**power for power in range(4, 18))  # to 131,072
Labelled = TypeVar("Labelled", Counter, Histogram)
# Every gateway hears the same of all replicas and of the store: the latest value is the whole.
LATEST: Literal["livemostrecent"] = "livemostrecent"


class MetricSeries:
    """Declares what a gateway process counts and measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._declare_requests()
        self._declare_nodes()
        self._declare_adapters()
        self._declare_controlnets()
        self._declare_edits()
        self._declare_templates()

    def begin_at_zero(self, workflows: Iterable[Workflow]) -> None:
        """Have what alerts look at stand at zero before it first happens.

        Prometheus takes the growth of a series from its second sample on, and finds no ratio of a series that is there
        to one that is not: the first broken dataflow, or a workflow that has only ever failed, would go unseen.  So
        do both parts of what dashboards show as a share.
        """
        for reason in get_args(RejectReason):
            self._rejected.labels(reason)
        for result in ("ok", "broken"):
            self._dataflow_checks.labels(result)
        for workflow in workflows:
            for by_workflow in (self._attained, self._missed, self._changed_outside, self._queue_s):
                by_workflow.labels(workflow.name)
            for outcome in ("replica_lost", "poison_request"):
                self._requests.labels(workflow.name, outcome)
            for node in workflow.nodes.values():
                self._retries.labels(node.kind, node.model)
                if node.kind == "text_encode":
                    self._cache_hits.labels(node.kind, node.model)
                    self._cache_misses.labels(node.kind, node.model)
                if node.kind == "denoise":
                    self._begin_model_at_zero(node.model)

    def _begin_model_at_zero(self, model: str) -> None:
        for counter in (
            *(self._adapter_hits, self._adapter_loads, self._controlnet_hits, self._controlnet_loads),
            *(self._template_primings, self._template_evictions, self._tokens, self._tokens_saved),
            self._steps_redone,
        ):
            counter.labels(model)

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
        self._durable_jobs = self._gauge(
            "durable_jobs", "Durable jobs that wait, run or are unreadable.", LATEST, "state"
        )
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
        weights = ("model", "tier")  # the tier is empty but where it has a checkpoint of its own
        self._step_s = self._histogram("denoise_step_seconds", "Forward passes of the backbone.", SECONDS, *weights)
        self._step_lanes = self._histogram("denoise_step_lanes", "Lanes that share a forward pass.", LANES, *weights)
        self._step_rows = self._histogram("denoise_step_rows", "Token rows of a forward pass.", ROWS, *weights)
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
