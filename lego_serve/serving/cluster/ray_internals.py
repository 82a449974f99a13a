"""Everything private of Ray that we depend on, in one place; a test says clearly when Ray changes it.

A request router of one's own has to be a subclass of Serve's, which is not public in Ray 2.60, and Serve's own
book-keeping loses calls that share a request's id, so that one method of it is overridden.  Ray prints errors of the
cluster on every driver's standard output, coloured, whatever its options say; here they are logged.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ray._private import worker
from ray.experimental import internal_kv
from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter

__all__ = [
    "KeyValueStore",
    "PendingRequest",
    "RequestMetadata",
    "RequestRouter",
    "RunningReplica",
    "log_like_this_process",
]
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


class KeyValueStore:
    """Ray's own key-value store, in which texts last as long as Ray does; a call waits shortly for the head's answer.

    Every method raises ConnectionError where this process has not joined Ray, and RayError where the head is away.
    """

    NAMESPACE, PATIENCE_S = b"lego_serve", 0.5

    def get(self, key: str) -> str:
        """Return a text, an empty one where there is none."""
        return (_gcs_client().internal_kv_get(key.encode(), self.NAMESPACE, timeout=self.PATIENCE_S) or b"").decode()

    def put(self, key: str, text: str) -> None:
        """Write a text."""
        _gcs_client().internal_kv_put(key.encode(), text.encode(), True, self.NAMESPACE, timeout=self.PATIENCE_S)

    def remove(self, key: str) -> None:
        """Remove a text."""
        _gcs_client().internal_kv_del(key.encode(), False, self.NAMESPACE, timeout=self.PATIENCE_S)

    def keys(self, beginning: str) -> list[str]:
        """Return the keys that begin so."""
        found = _gcs_client().internal_kv_keys(beginning.encode(), self.NAMESPACE, timeout=self.PATIENCE_S)
        return [key.decode() for key in found]


def _gcs_client() -> Any:
    client = internal_kv.internal_kv_get_gcs_client()
    if client is None:
        raise ConnectionError("this process has not joined Ray")
    return client
