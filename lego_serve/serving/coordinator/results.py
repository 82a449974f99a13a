"""Builds a job's result from outputs and statistics."""

from collections.abc import Mapping

import numpy as np

from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult, TaskStats, Value
from lego_serve.core.nodes.messages import DecodeOutput


def result_of(job: Job, outputs: Mapping[str, Value], stats: Mapping[str, TaskStats]) -> JobResult:
    """Images with the seeds they were made from, and where the time went."""
    decoded = outputs["image"]
    assert isinstance(decoded, DecodeOutput)
    first = job.inputs.get("seed")
    seed = first if isinstance(first, int) else 0
    images = tuple(
        GeneratedImage(p.shape[1], p.shape[0], p.tobytes(), (seed + i) % 2**32)
        for i, p in enumerate(np.asarray(decoded.pixels))
    )
    return JobResult(
        images,
        sum(s.queue_s for s in stats.values()),
        {name: s.run_s for name, s in stats.items()},
        sum(s.cache_hit for s in stats.values()),
        stats,
    )
