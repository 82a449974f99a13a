"""Large arrays stay in Ray's object store, at the replica that made them, and travel as references.

The replica that puts an array there owns it: when its process dies before somebody has read the array, reading it
fails, and the dataflow runs the node again.
"""

import asyncio
from typing import TypeVar

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from lego_serve.core.values import Leaf, Ref, map_leaves, refs_of

Message = TypeVar("Message")
# Below it a copy through the caller costs less than a look-up in the store: `python -m benchmarks.references`.
MIN_BYTES = 2**20


class RefsLost(Exception):
    """References whose owner has died."""

    def __init__(self, ids: frozenset[str]) -> None:
        super().__init__(f"{len(ids)} references lost")
        self.ids = ids


async def keep_arrays(message: Message, min_bytes: int = MIN_BYTES) -> Message:
    """Put the arrays of at least ``min_bytes`` into this node's object store; return the message with references."""
    handles: dict[int, Ref] = {}
    large: list[np.ndarray] = []

    def note(leaf: Leaf) -> Leaf:
        if isinstance(leaf, np.ndarray) and leaf.nbytes >= min_bytes:
            large.append(leaf)
        return leaf

    map_leaves(message, note)
    for array in large:  # a put copies the whole array, which would block the event loop
        handles[id(array)] = await asyncio.to_thread(_put, array)

    def swap(leaf: Leaf) -> Leaf:
        return handles.get(id(leaf), leaf)

    kept: Message = map_leaves(message, swap)
    return kept


def _put(array: np.ndarray) -> Ref:
    handle = ray.put(array)
    return Ref(handle.hex(), array.nbytes, handle)


async def read_arrays(message: Message) -> Message:
    """Return a message with the arrays that its references stand for.  Raises RefsLost, naming all that are lost."""
    refs = {ref.id: ref for ref in refs_of(message)}
    outcomes = await asyncio.gather(*(_read(ref) for ref in refs.values()), return_exceptions=True)
    arrays = dict(zip(refs, outcomes, strict=True))
    lost = frozenset(ref_id for ref_id, outcome in arrays.items() if _is_loss(outcome))
    if lost:
        raise RefsLost(lost)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome

    def get(leaf: Leaf) -> Leaf:
        return arrays[leaf.id] if isinstance(leaf, Ref) else leaf

    whole: Message = map_leaves(message, get)
    return whole


async def _read(ref: Ref) -> object:
    return await ref.handle  # type: ignore[misc]


def _is_loss(outcome: object) -> bool:
    """Return whether an error means that the array is lost."""
    is_lost = isinstance(outcome, ObjectLostError | RayActorError)
    return is_lost or (isinstance(outcome, RayError) and not isinstance(outcome, RayTaskError))
