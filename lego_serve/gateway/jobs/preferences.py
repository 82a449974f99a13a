"""What the headers of a request for images say of how it is to be run: `Prefer` (RFC 7240) and `Idempotency-Key`."""

import re
from dataclasses import dataclass

from fastapi import Request

from lego_serve.core.durable_jobs.idempotency import check_key
from lego_serve.errors import RequestError

MAX_WAIT_S = 60
WAIT = re.compile(r"[0-9]{1,2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Whether the answer is to be a job, how long to wait for its end, and the key that stands for the request."""

    is_async: bool = False
    wait_s: int | None = None
    key: str | None = None

    @property
    def is_durable(self) -> bool:
        """Whether the request is to become a durable job."""
        return self.is_async or self.key is not None

    @property
    def applied(self) -> str:
        """The preferences that the answer honours, for its header."""
        names = ["respond-async"] if self.is_async else []
        return ", ".join(names if self.wait_s is None else [*names, f"wait={self.wait_s}"])


def read_preferences(request: Request) -> Preferences:
    """Return a request's preferences; ones that are not known here are ignored, as RFC 7240 asks.

    Raises RequestError for a wait that is no number, or an idempotency key that is none.
    """
    given: dict[str, str] = {}
    for line in request.headers.getlist("prefer"):
        for part in line.split(","):
            name, _, value = part.partition(";")[0].partition("=")
            given.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = given.get("wait")
    if wait is not None and not (WAIT.fullmatch(wait) and 1 <= int(wait) <= MAX_WAIT_S):
        raise RequestError(f"`wait` in the header Prefer must be 1 to {MAX_WAIT_S} seconds.", code="invalid_prefer")
    key = request.headers.get("idempotency-key")
    wait_s = None if wait is None else int(wait)
    return Preferences("respond-async" in given, wait_s, None if key is None else check_key(key))
