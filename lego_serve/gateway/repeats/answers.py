"""The answer to a request with a key: recorded as it goes out, and as a text that the store keeps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Message

from lego_serve.gateway.errors import CLIENT_LEFT
from lego_serve.gateway.media.body_hash import BodyHash

MAX_ANSWER_BYTES = 64 * 2**20
# The next try may fare better: with another key, after the client was slow or had left, in less of a hurry, or once
# what was in its way has been removed.
NOT_KEPT = (401, 403, 408, 409, 413, 425, 429, CLIENT_LEFT)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a key stands for: the hash of its request, and the answer; no status while that is at work."""

    fingerprint: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""  # base64
    file: str = ""  # the name of the file that the body is in instead

    def to_json(self) -> str:
        """Return it as a text."""
        file = [self.file] if self.file else []  # which gateways of an older version know nothing of
        return json.dumps([self.fingerprint, self.status, dict(self.headers), self.body, *file])

    @classmethod
    def of_json(cls, text: str) -> "StoredAnswer":
        """Return the one of a text."""
        return cls(*json.loads(text))


FORGOTTEN = StoredAnswer()


class RecordedAnswer:
    """A request as it comes in, and its answer as it goes out."""

    def __init__(self, body: BodyHash) -> None:
        self.body = body
        self.status, self.headers = 0, dict[str, str]()
        self.chunks: list[bytes] = []
        self._size = 0
        self._has_left = False

    def hear(self, message: Message) -> None:
        """Take what comes in."""
        if message["type"] == "http.request":
            self.body.add(message.get("body", b""))
            self.body.is_whole = not message.get("more_body", False)
        else:
            self._has_left = True

    def add(self, message: Message) -> None:
        """Take what goes out."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            named = {name.decode().lower(): value.decode("latin-1") for name, value in message.get("headers", ())}
            self.headers = {name: named[name] for name in ("content-type", "location") if name in named}
            return
        self._size += len(message.get("body", b""))
        if self._size <= MAX_ANSWER_BYTES:
            self.chunks.append(message.get("body", b""))
        else:
            self.chunks.clear()

    @property
    def is_to_be_kept(self) -> bool:
        """Whether a repeat is to get it: what was done, whoever hears of it, and an error that will not pass."""
        if self._size > MAX_ANSWER_BYTES:
            return False
        is_final = self.status < 500 and self.status not in NOT_KEPT and self.body.is_whole and not self._has_left
        return self.status < 300 or is_final
