"""Cells of shared workers: each has a dispatcher of its own, which looks at every worker for every job.

Workers belong to cells by their names, so that all processes agree without a word; the sizes of cells differ by that as
those of lots do.  A job asks the less busy one of two cells that follow from its id.
"""

import math
from collections.abc import Sequence
from zlib import crc32

MOST_WORKERS = 64  # that one dispatcher is for
USUAL_WORKERS = 48  # of each of several cells: lots fill few of them with more than 64


def cell_count(workers: int) -> int:
    """Return how many cells that many workers have at the most."""
    return 1 if workers <= MOST_WORKERS else math.ceil(workers / USUAL_WORKERS)


def cell_of(name: str, cells: int) -> int:
    """Return the cell of a worker."""
    return crc32(name.encode()) % cells


def less_busy(job_id: str, work_s: Sequence[float | None]) -> int:
    """Return a job's cell by the seconds in hand for each worker of every cell; None where nobody answers."""
    cells = len(work_s)
    first = cell_of(job_id, cells)
    second = (first + 1 + cell_of(f"second {job_id}", cells - 1)) % cells if cells > 1 else first
    busy = {each: math.inf if (seconds := work_s[each]) is None else seconds for each in (first, second)}
    return min(busy, key=lambda each: busy[each])
