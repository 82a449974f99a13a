"""Everything private of Ray that we depend on, in one place; a test says clearly when Ray changes it.

A request router of one's own has to be a subclass of Serve's, which is not public in Ray 2.60, and Serve's own
book-keeping loses calls that share a request's id, so that one method of it is overridden.
"""

from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter

__all__ = ["PendingRequest", "RequestMetadata", "RequestRouter", "RunningReplica"]
