"""How a batch whose forward pass ran out of memory is run again: in two halves, and with fewer rows from then on.

Invariants: the parts hold every lane once and in order; both are smaller than the batch, so that halving part after
part ends, at the latest with lanes alone; the new limit lies below what the failed pass had.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryRetry:
    """The batches (lane keys) to run one after the other, and the most rows that steps of several lanes may have."""

    parts: tuple[tuple[str, ...], tuple[str, ...]]
    max_rows: int


def halve_batch(keys: Sequence[str], rows: int) -> MemoryRetry:
    """Split a batch of these lanes, ``rows`` token rows in all, after its pass ran out of memory.

    Raises ValueError for a lane alone, of which nothing can be left out, and for fewer rows than lanes.
    """
    if len(keys) < 2 or rows < len(keys):
        raise ValueError(f"a batch of {len(keys)} lanes and {rows} rows cannot be halved")
    middle = (len(keys) + 1) // 2
    return MemoryRetry((tuple(keys[:middle]), tuple(keys[middle:])), rows // 2)
