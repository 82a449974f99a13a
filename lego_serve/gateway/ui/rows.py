"""Jobs as the dashboard shows them: a row of a list, and one whole with all that happened to it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from lego_serve.core.jobs.history import OK, Attempt, JobRecord, Span
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.series import percentile
from lego_serve.core.workflow.graph import Node, Source, Workflow
from lego_serve.gateway.ui.recorder import NodeTimes, Recorder

GAP_S = 0.05  # between two steps: shorter waits are not spoken of


def row_of(recorder: Recorder, record: JobRecord) -> dict[str, Any]:
    """Return a job as a row: numbers and words, no bodies."""
    now = recorder.context.runner.now()
    end_s = now if record.ended_s is None else record.ended_s
    target_s, target_by = recorder.target(record)
    width, height = record.parameters.get("width"), record.parameters.get("height")
    eta_s = recorder.eta_s(record)
    return {
        "id": record.id,
        "state": state_of(record),
        "outcome": record.outcome,
        "workflow": record.workflow,
        "tenant": record.tenant,
        "created": round(recorder.wall(record.began_s), 3),
        "age_s": round(end_s - record.began_s, 3),
        "waited_s": round(_waited_s(record, end_s), 3),
        "step": record.of_steps if record.outcome == OK else record.step,
        "steps": record.of_steps,
        "eta_s": None if eta_s is None else round(eta_s, 2),
        "replica": record.replica,
        "size": f"{width}x{height}" if width and height else "",
        "n": len(record.steps),
        "target_s": None if target_s is None else round(target_s, 3),
        "target_by": target_by,
        "flags": _flags(record, end_s - record.began_s, target_s),
        "message": record.message,
        "gateway": recorder.id,
    }


def state_of(record: JobRecord) -> str:
    """Return a job's state in a word."""
    if record.ended_s is not None:
        return "ended"
    return "paused" if record.is_paused else "waiting" if record.is_waiting else "running"


def detail_of(recorder: Recorder, record: JobRecord, story: Iterable[str]) -> dict[str, Any]:
    """Return all that is known of a job; times are seconds since it began."""
    now = recorder.context.runner.now()
    end_s = now if record.ended_s is None else record.ended_s
    workflow = recorder.context.runner.workflows.get(record.workflow)
    spans = [_span_of(record, span, end_s) for span in record.spans.values()]
    reuse = [each["reuse"] for each in spans if each.get("reuse")]
    return row_of(recorder, record) | {
        "object": "request",
        "inputs": dict(record.parameters),
        "addons": [{"field": field, "name": name} for field, name in record.addons],
        "deadline_s": None if record.deadline_s is None else round(record.deadline_s - record.began_s, 3),
        "total_s": round(end_s - record.began_s, 4),
        "spans": spans,
        "critical": [] if workflow is None else critical_path(workflow, record),
        "reuse": reuse[0] if reuse else None,
        "story": [_told(line, record.began_s) for line in story],
    }


def critical_path(workflow: Workflow, record: JobRecord) -> list[str]:
    """Return the nodes whose time decides the total: back from the last one to end, by what each waited for."""
    spans = record.spans
    if not spans:
        return []

    def end(name: str) -> float:
        done = spans[name].to_s
        return float("inf") if done is None else done

    path = [max(spans, key=end)]
    while True:
        node: Node | None = workflow.nodes.get(path[0])
        before = [name for name in (node.needs if node else ()) if name in spans]
        if not before:
            return path
        path.insert(0, max(before, key=end))


def _span_of(record: JobRecord, span: Span, end_s: float) -> dict[str, Any]:
    """Return a node's part; what a replica measured is anchored at the coordinator's word that it was done."""
    stats = span.stats or TaskStats()
    to_s = end_s if span.to_s is None else span.to_s
    if span.to_s is None and (span.kind != "denoise" or record.step > 0):  # it runs, since when is known later
        began_s = max([span.from_s, *(attempt.at_s for attempt in span.attempts)])
        stats = replace(stats, run_s=to_s - began_s)
    anchor_s = to_s - stats.queue_s - stats.run_s
    if span.attempts:
        anchor_s = max(span.attempts[-1].at_s, min(anchor_s, to_s))
    steps = [
        [round(max(anchor_s, span.from_s) + at_s - record.began_s, 4), round(took_s, 4), lanes]
        for at_s, took_s, lanes in zip(stats.step_at, stats.step_s, stats.step_lanes, strict=False)
    ]
    return {
        "node": span.node,
        "kind": span.kind,
        "model": span.model,
        "from_s": round(span.from_s - record.began_s, 4),
        "to_s": round(to_s - record.began_s, 4),
        "is_done": span.to_s is not None,
        "queue_s": round(stats.queue_s, 4),
        "run_s": round(stats.run_s, 4),
        "transfer_s": round(span.sent_s, 4),
        "bytes": span.bytes,
        "batch": stats.batch_size,
        "cache": "hit" if stats.cache_hit else "",
        "attempts": [_attempt_of(record, each) for each in span.attempts],
        "redone": stats.steps_redone,
        "steps": steps,
        "notes": _notes(record, span, steps),
        "adapters": [
            {"name": a.name, "hit": a.hit, "load_s": round(a.load_s, 4), "bytes": a.bytes} for a in stats.adapters
        ],
        "controlnets": [{"name": c.name, "hit": c.hit, "steps": c.steps_active} for c in stats.controlnets],
        "reuse": _reuse(stats),
    }


def _reuse(stats: TaskStats) -> dict[str, Any] | None:
    reuse = stats.reuse
    if reuse is None:
        return None
    share = reuse.active_rows / reuse.rows if reuse.rows else 1.0
    return {
        "quality": reuse.quality,
        "masked_steps": reuse.masked_steps,
        "steps": reuse.steps,
        "share": round(share, 4),
    }


def _attempt_of(record: JobRecord, attempt: Attempt) -> dict[str, Any]:
    end_s = None if attempt.end_s is None else round(attempt.end_s - record.began_s, 4)
    at_s = round(attempt.at_s - record.began_s, 4)
    return {"replica": attempt.replica, "at_s": at_s, "end_s": end_s, "end": attempt.end, "step": attempt.step}


def _notes(record: JobRecord, span: Span, steps: list[list[float]]) -> list[list[Any]]:
    """Return what is said under a bar: [seconds, words, how bad]."""
    notes: list[list[Any]] = []
    stats = span.stats or TaskStats()
    late = [adapter.name for adapter in stats.adapters if not adapter.hit]
    if span.kind == "denoise" and stats.queue_s > GAP_S:
        why = f"waits for {late[0]}" if late else "waits for a place"
        notes.append([round(span.from_s - record.began_s, 4), why, "muted"])
    for attempt in span.attempts:
        if attempt.end:
            words = "lost" if attempt.end == "lost" else "handed over"
            text = f"{attempt.replica[-4:]} {words} after step {attempt.step}; goes on elsewhere"
            notes.append([round((attempt.end_s or attempt.at_s) - record.began_s, 4), text, "bad"])
    waited = [
        (at + took, after)
        for (at, took, _), (after, _, _) in pairwise(steps)
        if after - at - took > max(GAP_S, 2 * took)
    ]
    for is_pause, words in ((True, "paused"), (False, "gave way to others")):
        alike = [gap for gap in waited if _was_paused(record, *gap) == is_pause]
        if alike:
            at, after = max(alike, key=lambda gap: gap[1] - gap[0])
            notes.append([round(at, 4), f"{words} for {after - at:.2f} s", "muted"])
    return notes


def _was_paused(record: JobRecord, from_s: float, to_s: float) -> bool:
    """Whether a job was paused at some time between two, in seconds since it began."""
    spans = [
        (since - record.began_s, float("inf") if to is None else to - record.began_s) for since, to in record.pauses
    ]
    return any(since < to_s and until > from_s for since, until in spans)


def _waited_s(record: JobRecord, end_s: float) -> float:
    waited = sum(span.stats.queue_s for span in record.spans.values() if span.stats is not None)
    denoising = [span for span in record.spans.values() if span.kind == "denoise" and span.stats is None]
    if record.is_waiting and denoising:
        waited += max(0.0, end_s - denoising[-1].from_s)
    return waited


def _flags(record: JobRecord, age_s: float, target_s: float | None) -> list[str]:
    attempts = [attempt for span in record.spans.values() for attempt in span.attempts]
    flags = {
        "resumed": any(attempt.end for attempt in attempts),
        "paused": record.is_paused,
        "edit": record.is_edit,
        "adapters": any(field == "lora" for field, _ in record.addons),
        "controlnet": any(field == "controlnet" for field, _ in record.addons),
        "late": target_s is not None and age_s > target_s,
    }
    return [name for name, is_on in flags.items() if is_on]


def _told(line: str, began_s: float) -> list[Any]:
    at, _, words = line.partition(" ")
    try:
        return [round(float(at) - began_s, 4), words]
    except ValueError:
        return [0.0, line]


def graph_of(workflow: Workflow, times: Sequence[Mapping[str, Sequence[NodeTimes]]]) -> dict[str, Any]:
    """Return a workflow's nodes and edges, with what they cost lately in each gateway.

    An edge has the bytes that go along it, and the seconds that the call of the node at its end was on the way.
    """
    every = {name: [each for one in times for each in one.get(name, ())] for name in workflow.nodes}

    def median(name: str, part: int) -> float | None:
        return percentile([each[part] for each in every[name]], 0.5)

    nodes = [
        {"name": name, "kind": node.kind, "model": node.model, "component": node.component}
        for name, node in workflow.nodes.items()
    ]
    edges = [
        {
            "from": source.node,
            "to": name,
            "type": argument,
            "output": source.output,
            "p50_s": median(name, 2),
            "bytes": median(source.node, 3),
        }
        for name, node in workflow.nodes.items()
        for argument, source in node.arguments.items()
        if isinstance(source, Source) and source.node != "inputs"
    ]
    outputs = [{"name": name, "node": source.node} for name, source in workflow.outputs.items()]
    facts = {"name": workflow.name, "version": workflow.version, "hash": workflow.content_hash, "object": "workflow"}
    costs = {
        name: {
            "p50_s": median(name, 1),
            "p95_s": percentile([each[1] for each in found], 0.95),
            "waited_p50_s": median(name, 0),
            "count": len(found),
        }
        for name, found in every.items()
        if found
    }
    return facts | {"nodes": nodes, "edges": edges, "outputs": outputs, "times": costs}
