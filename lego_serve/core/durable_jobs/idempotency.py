"""Idempotency keys: what makes two requests the same, and what a repeated key is answered with."""

import hashlib
import json
from collections.abc import Mapping

from lego_serve.core.durable_jobs.record import JobRecord, Json
from lego_serve.errors import IdempotencyKeyReused, RequestError

MAX_KEY_LENGTH = 255


def check_key(key: str) -> str:
    """Return an idempotency key.  Raises RequestError unless it is 1 to 255 printable ASCII characters."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not all(" " <= character <= "~" for character in key):
        raise RequestError(
            f"The header Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters.",
            code="invalid_idempotency_key",
        )
    return key


def fingerprint(route: str, values: Mapping[str, Json], files: Mapping[str, bytes]) -> str:
    """Return a hash of a parsed request: its route, its values in any order, and its files by content.

    Of the parts and not of the body, because a client that tries again draws another multipart boundary.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = json.dumps([route, values, digests], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_replay(earlier: JobRecord, request_fingerprint: str) -> None:
    """Raise IdempotencyKeyReused where a key stands for another request than the one that comes with it now."""
    if earlier.request.fingerprint != request_fingerprint:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used for another request; send a key of its own with each request."
        )
