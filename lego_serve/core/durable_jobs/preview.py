"""Previews of running jobs, as gateways show them to each other: the latest of each image."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobPreview:
    """A preview of image ``lane`` of a job after so many of its steps, as a JPEG file."""

    job_id: str
    lane: int
    step: int
    steps: int
    jpeg: bytes


def latest_of_each(previews: Iterable[JobPreview]) -> list[JobPreview]:
    """Return the latest preview of each lane, by lane."""
    latest: dict[int, JobPreview] = {}
    for preview in previews:
        known = latest.get(preview.lane)
        if known is None or known.step < preview.step:
            latest[preview.lane] = preview
    return [latest[lane] for lane in sorted(latest)]
