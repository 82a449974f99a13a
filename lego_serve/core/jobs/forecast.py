"""What is predicted of a job that has not begun."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a job ends, on the clock of jobs, behind how many others, and if that is too late: when to come again."""

    eta_s: float
    place: int
    retry_after_s: float | None = None
