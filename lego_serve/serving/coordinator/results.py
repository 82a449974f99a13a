"""What a job's outputs and costs come to for its client."""

from collections.abc import Mapping
from typing import Any

from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult, Ref, TaskStats


def result_of(job: Job, outputs: Mapping[str, Ref], stats: Mapping[str, TaskStats]) -> JobResult:
    """Images with the seeds they were made from, and where the time went."""
    value: Any = outputs["image"].handle
    first = job.inputs.get("seed")
    seed = first if isinstance(first, int) else 0
    images = tuple(
        GeneratedImage(p.shape[1], p.shape[0], p.tobytes(), (seed + i) % 2**32) for i, p in enumerate(value["pixels"])
    )
    return JobResult(
        images,
        sum(s.queue_s for s in stats.values()),
        {name: s.run_s for name, s in stats.items()},
        sum(s.cache_hit for s in stats.values()),
        stats,
    )
