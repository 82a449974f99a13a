"""What a server answers, as values; its errors are those of ``lego_serve.errors``."""

import base64
from dataclasses import dataclass, field, fields
from typing import Any

import httpx2

from lego_serve.errors import CapacityError, LegoError, NotFound, RequestError


class Unreachable(LegoError):
    """No answer came, or none of a lego_serve server."""


class JobFailed(LegoError):
    """A job has ended without images: it failed, was cancelled or expired."""


class StillRunning(LegoError):
    """A job has not ended yet; it goes on."""


@dataclass(frozen=True, slots=True)
class Images:
    """Files of images with their seeds; ``answer`` is the rest of the answer."""

    files: tuple[bytes, ...]
    seeds: tuple[int, ...]
    answer: dict[str, Any]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Images":
        """Return the images of an answer, apart from the rest."""
        data = answer.pop("data")
        return cls(tuple(base64.b64decode(each["b64_json"]) for each in data), tuple(e["seed"] for e in data), answer)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was asked for; ``preview`` is a JPEG file, ``answer`` all that was said."""

    id: str
    status: str
    model: str
    progress: int
    step: int
    steps: int
    position: int | None
    eta_s: float | None
    preview: bytes | None = field(repr=False)
    answer: dict[str, Any] = field(compare=False, repr=False)

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Job":
        """Return the job of an answer or event."""
        known = {each.name: answer.get(each.name) for each in fields(cls)[:-2]}
        file = (answer.get("preview") or {}).get("b64_json")
        return cls(**known, preview=file and base64.b64decode(file), answer=answer)  # type: ignore[arg-type]

    @property
    def has_ended(self) -> bool:
        """Whether it changes no more."""
        return self.status not in ("queued", "in_progress")


def content_of(answer: httpx2.Response) -> Any:
    """Return the JSON of an answer, None without content.  Raises LegoError for an error, Unreachable for no JSON."""
    status = answer.status_code
    try:
        content = answer.json() if answer.content else None
        told = {} if answer.is_success else dict((content or {}).get("error") or {})
    except (ValueError, AttributeError):
        words = f"{answer.request.url} answered {status} and no JSON; is it a lego_serve server?"
        raise Unreachable(words) from None
    if answer.is_success:
        return content
    kind = {404: NotFound, 429: CapacityError}.get(status, RequestError if status < 500 else LegoError)
    error = kind(told.get("message", f"the server answered {status}"), param=told.get("param"), code=told.get("code"))
    error.status, error.kind = status, told.get("type", error.kind)
    error.retry_after_s = seconds_in(answer, "retry-after-ms", "retry-after")
    raise error


def seconds_in(answer: httpx2.Response, milliseconds: str, seconds: str) -> float | None:
    """Return the seconds that one of two headers says; None where neither does."""
    for name, unit in ((milliseconds, 1000), (seconds, 1)):
        if (value := answer.headers.get(name, "")).isdigit():
            return int(value) / unit
    return None
