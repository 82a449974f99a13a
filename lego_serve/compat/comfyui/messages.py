"""What ``/ws`` sends: the messages that each event of a prompt's life becomes, in ComfyUI's order.

A listener may come late: its first message is `status`, with the true number of prompts that remain.  Clients take 0
for the end of their own prompt and ask for its history, so an end may be told only once its history is there.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Json = dict[str, object]
PREVIEW_IMAGE = 1
JPEG, PNG = 1, 2


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt runs; its sampling node is at work."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of the sampling node is done."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Previewed:
    """How the image looks by now, as a JPEG or PNG file."""

    image: bytes
    format: Literal["jpeg", "png"] = "jpeg"


@dataclass(frozen=True, slots=True)
class Saved:
    """An output node has saved its files."""

    node: str
    files: Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Ended:
    """The prompt is over; ``remaining`` prompts are left."""

    status: Literal["success", "error", "interrupted"]
    at_ms: int
    remaining: int = 0
    message: str = ""


Event: TypeAlias = Begun | Stepped | Previewed | Saved | Ended
Message: TypeAlias = Json | bytes


def hello(client_id: str, remaining: int) -> Json:
    """Return the first message of a connection."""
    return _message("status", status=_exec_info(remaining), sid=client_id)


def queue_changed(remaining: int) -> Json:
    """Return the message that tells how many prompts remain."""
    return _message("status", status=_exec_info(remaining))


def messages(event: Event, prompt_id: str, node: str, node_type: str = "KSampler") -> list[Message]:
    """Return what an event of a prompt is told by; ``node`` is its sampling node."""
    match event:
        case Begun(at_ms):
            executing = _message("executing", node=node, display_node=node, prompt_id=prompt_id)
            return [*started(prompt_id, at_ms), executing]
        case Stepped(step, steps):
            return [_message("progress", value=step, max=steps, prompt_id=prompt_id, node=node)]
        case Previewed(image, form):
            return [struct.pack(">II", PREVIEW_IMAGE, JPEG if form == "jpeg" else PNG) + image]
        case Saved(saver, files):
            output: Json = {"images": [dict(file) for file in files]}
            return [
                _message("executing", node=saver, display_node=saver, prompt_id=prompt_id),
                _message("executed", node=saver, display_node=saver, output=output, prompt_id=prompt_id),
            ]
        case Ended():
            return _ended(event, prompt_id, node, node_type)


def _ended(event: Ended, prompt_id: str, node: str, node_type: str) -> list[Message]:
    last = {
        "success": succeeded(prompt_id, event.at_ms),
        "error": stopped(prompt_id, event.at_ms, node, node_type, event.message),
        "interrupted": interrupted(prompt_id, event.at_ms, node, node_type),
    }[event.status]
    return [last, queue_changed(event.remaining), _message("executing", node=None, prompt_id=prompt_id)]


def started(prompt_id: str, at_ms: int) -> list[Json]:
    """Return the messages that a prompt begins with."""
    return [
        _message("execution_start", prompt_id=prompt_id, timestamp=at_ms),
        _message("execution_cached", nodes=[], prompt_id=prompt_id, timestamp=at_ms),
    ]


def succeeded(prompt_id: str, at_ms: int) -> Json:
    """Return the message of a good end."""
    return _message("execution_success", prompt_id=prompt_id, timestamp=at_ms)


def stopped(prompt_id: str, at_ms: int, node: str, node_type: str, reason: str) -> Json:
    """Return the message of a prompt that failed."""
    return _message(
        "execution_error",
        prompt_id=prompt_id,
        node_id=node,
        node_type=node_type,
        executed=[],
        exception_message=reason,
        exception_type="RuntimeError",
        traceback=[],
        current_inputs={},
        current_outputs=[],
        timestamp=at_ms,
    )


def interrupted(prompt_id: str, at_ms: int, node: str, node_type: str) -> Json:
    """Return the message of a prompt that was stopped on request."""
    return _message(
        "execution_interrupted", prompt_id=prompt_id, node_id=node, node_type=node_type, executed=[], timestamp=at_ms
    )


def _message(kind: str, **data: object) -> Json:
    return {"type": kind, "data": data}


def _exec_info(remaining: int) -> Json:
    return {"exec_info": {"queue_remaining": remaining}}
