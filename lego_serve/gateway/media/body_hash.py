"""Tells whether two bodies of requests ask for the same, as they pass by."""

import asyncio
import hashlib
import json

from lego_serve.core.json_text import JsonLimitExceeded, outline

INLINE_BYTES = 32 * 1024  # what takes less than a thread does
MAX_JSON_BYTES = 2**20  # of a body whose values are compared; of a longer one it is the bytes


class BodyHash:
    """A hash of a body as it passes by: of the values of JSON, else of the bytes without the boundary of their parts.

    A client may write the keys of an object in another order for each try, and draws another boundary.
    """

    def __init__(self, method: str, path: str, content_type: str) -> None:
        self._hash = hashlib.sha256(f"{method} {path}\n".encode())
        boundary = content_type.partition("boundary=")[2].partition(";")[0]  # other parameters may follow
        self._boundary = boundary.strip().strip('"').encode()
        self._rest = b""
        is_json = content_type.partition(";")[0].strip().lower() == "application/json"
        self._json: bytearray | None = bytearray() if is_json else None
        self.is_whole = False  # whether all of the body has passed by

    def add(self, chunk: bytes) -> None:
        """Take the next bytes; a boundary may lie across two chunks."""
        if self._json is not None:
            self._json += chunk
            if len(self._json) <= MAX_JSON_BYTES:
                return
            chunk, self._json = bytes(self._json), None
        data = self._rest + chunk
        if not self._boundary:
            self._hash.update(data)
            return
        data = data.replace(self._boundary, b"")
        kept = len(self._boundary) - 1
        self._hash.update(data[: max(0, len(data) - kept)])
        self._rest = data[max(0, len(data) - kept) :]

    async def digest(self) -> str:
        """Return the hash of all that was added; much JSON is read in a thread."""
        if self._json is not None and len(self._json) > INLINE_BYTES:
            return await asyncio.to_thread(self._digest)
        return self._digest()

    def _digest(self) -> str:
        if self._json is not None:
            self._hash.update(_canonical(bytes(self._json)))
            self._json = bytearray()
        self._hash.update(self._rest)
        self._rest = b""
        return self._hash.hexdigest()


def _canonical(body: bytes) -> bytes:
    """Return the values of a JSON text in one way of writing them; what is no JSON, or beyond its bounds, as it is.

    No route takes more than the bounds allow, and a few kilobytes of brackets would cost more than all that is taken.
    """
    try:
        outline(body)
        return json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    except (JsonLimitExceeded, ValueError):
        return body
