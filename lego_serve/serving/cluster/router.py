"""Ray Serve's request router for our nodes: denoising goes to the replica with the least work in hand.

It also tells whoever listens in this process which replicas have left, so that lanes streamed from
there can be moved.  Ray's interface is alpha: nothing else of ours touches it, and what is private of it is named in
``ray_internals``.
"""

import asyncio
import time
from typing import Any

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import DenoiseInput
from lego_serve.core.scheduling.routing import CallHints
from lego_serve.serving.cluster import routing_state  # by its name alone: see there
from lego_serve.serving.cluster.ray_internals import PendingRequest, RequestMetadata, RequestRouter, RunningReplica


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
        call = next((a for a in pending_request.args if isinstance(a, NodeCall)), None) if pending_request else None
        templates = {name: replica.routing_stats.get("templates", ()) for name, replica in by_id.items()}
        resident = {name: replica.routing_stats.get("resident", ()) for name, replica in by_id.items()}
        ranked = routing_state.choice.ranked(_hints(call), templates, time.monotonic(), routing_state.rng, resident)
        return [[by_id[name] for name in group] for group in ranked]

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
        resident = {each.replica_id.unique_id: each.routing_stats.get("resident", ()) for each in replicas}
        routing_state.record_replicas(self._deployment_id.app_name, resident)
        routing_state.record_stats(self._deployment_id.app_name, [replica.routing_stats for replica in replicas])


def _hints(call: NodeCall[Any] | None) -> CallHints:
    """Return the routing hints of a call."""
    if call is None:
        return CallHints()
    denoise = call.request if isinstance(call.request, DenoiseInput) and call.key else None
    return CallHints(denoise, call.key, call.avoid, call.suspect_steps > 0, call.target, call.node)
