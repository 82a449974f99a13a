"""Ray Serve's request router for our nodes: denoising goes to the replica with the least work in hand.

It also tells whoever listens in this process which replicas have left, so that lanes streamed from
there can be moved.  Ray's interface is alpha: nothing else of ours touches it.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.scheduling.routing import denoising_work, entries_read, exclude, priming_by_replica, quarantine
from lego_serve.serving.cluster import routing_state  # by its name alone: see there


class LegoRequestRouter(RequestRouter):  # type: ignore[misc]
    """Chooses a replica for each call by what the call says."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The least loaded of the replicas a denoising call may go to; the rest if it is full.

        For other calls two at random, of which Serve takes the one with the shorter queue.
        """
        if pending_request is not None:  # whoever finds all full waits a while: there is no other choice to try at once
            pending_request.routing_context.should_backoff = True
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ids: Sequence[str] = list(by_id)
        call = next((a for a in pending_request.args if isinstance(a, NodeCall)), None) if pending_request else None
        if call is not None:
            ids = quarantine(exclude(ids, call.avoid | routing_state.draining), call.suspect_steps > 0)
        if call is None or not call.key or not ids:
            return [[by_id[replica] for replica in random.sample(ids, min(2, len(ids)))]]
        first = _cheapest(call, ids, by_id)
        rest = [by_id[replica] for replica in ids if replica != first]
        return [[by_id[first]], rest] if rest else [[by_id[first]]]

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: RequestMetadata | None = None
    ) -> None:
        """Give a replica to the call it was chosen for.

        Calls that a node makes for one request, such as for two adapters, share an id in Serve, which knows only the
        first of them by it: without this the others would never be sent, and their search never end.
        """
        super()._fulfill_next_pending_request(replica, request_metadata)
        searching = self._routing_task_by_pending_request_future
        for pending in self._pending_requests_to_fulfill:
            if not pending.future.done() and searching.get(pending.future) is asyncio.current_task():
                self._record_queue_wait_time(pending)
                pending.future.set_result(replica)
                return

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take note of the replicas there are now."""
        before = {replica.unique_id for replica in self._replica_id_set}
        super().update_replicas(replicas)
        left: Any = before - {replica.unique_id for replica in self._replica_id_set}
        if left:
            routing_state.left(left)
        routing_state.said(self._deployment_id.app_name, [replica.routing_stats for replica in replicas])


def _cheapest(call: NodeCall, ids: Sequence[str], by_id: Mapping[str, RunningReplica]) -> str:
    """The replica expected to end a denoising call first; the call is placed there."""
    now = time.monotonic()
    reported = {replica: by_id[replica].routing_stats.get("templates", ()) for replica in ids}
    besides = priming_by_replica(call.inputs, reported, routing_state.residency, now)
    first = random.choice(routing_state.outstanding.least(ids, besides))
    routing_state.outstanding.place(call.key, first, denoising_work(call.inputs) + besides.get(first, 0.0))
    for label in entries_read(call.inputs):
        routing_state.residency.record_sent(first, label, now)
    return first
