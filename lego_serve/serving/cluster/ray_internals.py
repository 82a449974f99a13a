"""Everything private of Ray that we depend on, in one place; a test says clearly when Ray changes it.

A request router of one's own has to be a subclass of Serve's, which is not public in Ray 2.60, and Serve's own
book-keeping loses calls that share a request's id, so that one method of it is overridden.  Ray prints errors of the
cluster on every driver's standard output, coloured, whatever its options say; here they are logged.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ray._private import worker
from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter

__all__ = ["PendingRequest", "RequestMetadata", "RequestRouter", "RunningReplica", "log_like_this_process"]
log = logging.getLogger("lego_serve.ray")


def log_like_this_process() -> None:
    """Have Ray and Serve log as the rest of this process does, also what they would print; call it once Ray runs."""
    worker.print_to_stdstream = _log_lines
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _log_lines(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Log what Ray would print: ``lines`` by the process ``pid``, which may be a name."""
    for line in data["lines"]:
        log.warning("%s: %s", data["pid"], line)
