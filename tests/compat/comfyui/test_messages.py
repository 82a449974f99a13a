"""What listeners of ``/ws`` are told, as a client reads it."""

import io
import json
import struct
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from PIL import Image
from sd_backend_client.api.comfyui.comfyui_progress_listener import ComfyProgressListener

from lego_serve.compat.comfyui.messages import (
    Begun,
    Ended,
    Event,
    Message,
    Previewed,
    Saved,
    Stepped,
    hello,
    messages,
    queue_changed,
)

FILES = [{"filename": "a.png", "subfolder": "", "type": "output"}]


def told(*events: Event) -> list[Message]:
    return [message for event in events for message in messages(event, "p", "3")]


def kinds(sent: list[Message]) -> list[object]:
    return [message["type"] if isinstance(message, dict) else "bytes" for message in sent]


def test_a_prompt_is_told_in_comfyuis_order() -> None:
    """The last message says that no node runs any more; the number that remains stands before it."""
    sent = told(Begun(1), Stepped(1, 4), Previewed(b"x"), Saved("9", FILES), Ended("success", 2, 1))
    assert kinds(sent) == [
        "execution_start",
        "execution_cached",
        "executing",
        "progress",
        "bytes",
        "executing",
        "executed",
        "execution_success",
        "status",
        "executing",
    ]
    assert sent[-1] == {"type": "executing", "data": {"node": None, "prompt_id": "p"}}
    assert sent[-2] == queue_changed(1)
    assert sent[6] == {
        "type": "executed",
        "data": {"node": "9", "display_node": "9", "output": {"images": FILES}, "prompt_id": "p"},
    }


def test_who_connects_hears_how_many_prompts_remain() -> None:
    """0 means to a client that its own is done."""
    assert hello("me", 2) == {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}, "sid": "me"}}


def test_failures_and_interruptions_have_messages_of_their_own() -> None:
    """A failure says why, and which node it was."""
    failed = told(Ended("error", 5, message="no room"))
    assert kinds(failed) == ["execution_error", "status", "executing"]
    assert isinstance(failed[0], dict)
    assert (failed[0]["data"]["exception_message"], failed[0]["data"]["node_type"]) == ("no room", "KSampler")
    assert kinds(told(Ended("interrupted", 5)))[0] == "execution_interrupted"


def test_previews_have_a_head_of_eight_bytes() -> None:
    """Type 1, and format 1 for JPEG or 2 for PNG, in network order; then the file."""
    (jpeg,), (png,) = told(Previewed(b"J")), told(Previewed(b"P", "png"))
    assert (jpeg, png) == (struct.pack(">II", 1, 1) + b"J", struct.pack(">II", 1, 2) + b"P")


def test_a_client_follows_progress_and_previews() -> None:
    """sd-backend-client's listener has the fraction and the image, and lets go of the prompt at its end."""

    def unopened() -> AbstractContextManager[Any]:
        return nullcontext(None)

    listener = ComfyProgressListener(unopened, clock=lambda: 0.0, retry_interval=1e9)
    listener._last_failure = 0.0  # so that no thread is started
    listener.watch("p")
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "JPEG")
    for message in told(Begun(1), Stepped(1, 4), Previewed(file.getvalue())):
        listener.handle_message(message if isinstance(message, bytes) else json.dumps(message))
    live = listener.get_progress("p")
    assert live is not None
    assert live.progress == 0.25
    assert live.preview is not None
    assert live.preview.size == (8, 4)
    for message in told(Ended("success", 2)):
        listener.handle_message(json.dumps(message))
    assert listener.get_progress("p") is None
