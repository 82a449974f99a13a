"""Previews and progress through the official package and over plain HTTP, from a real server."""

import base64
import io
import json

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

pytestmark = pytest.mark.ray
PROMPT = "a large red circle on the left, blue background"


def image(b64_json: str) -> np.ndarray:
    """The pixels of a file in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json))).convert("RGB"), dtype=np.int16)


def test_the_openai_client_streams_previews_that_come_to_look_like_the_image(server) -> None:
    """Three partial images of full size, then the image that a request without a stream gets too."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    body = {"seed": 3, "num_inference_steps": 60}
    plain = client.images.generate(model="lego-tiny", prompt=PROMPT, size="160x128", extra_body=body)
    stream = client.images.generate(
        model="lego-tiny", prompt=PROMPT, size="160x128", stream=True, partial_images=3, extra_body=body
    )
    events = list(stream)
    assert [e.type for e in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [e.partial_image_index for e in events[:3]] == [0, 1, 2]
    images = [image(e.b64_json) for e in events]
    assert {p.shape for p in images} == {(128, 160, 3)}
    assert np.array_equal(images[-1], image(plain.data[0].b64_json))
    away = [np.abs(p - images[-1]).mean() for p in images]
    assert away[2] < away[0]


def test_edits_stream_under_their_own_names(server) -> None:
    """The events of an edit are OpenAI's for edits."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    made = client.images.generate(model="lego-tiny", prompt=PROMPT, size="128x128", extra_body={"seed": 1})
    source = base64.b64decode(made.data[0].b64_json)
    stream = client.images.edit(
        image=("a.png", source),
        prompt="a green square",
        stream=True,
        partial_images=1,
        extra_body={"seed": 1, "num_inference_steps": 50},
    )
    assert [e.type for e in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_progress_is_told_to_those_who_ask(server) -> None:
    """Steps count up with an estimate of what is left; there are at most four a second and a lane."""
    body = {"prompt": PROMPT, "stream": True, "stream_progress": True, "num_inference_steps": 100}
    events = []
    with httpx2.stream("POST", f"{server.url}/v1/images/generations", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.partition(": ")[2]) for line in answer.iter_lines() if line.startswith("data")]
    steps = [e["step"] for e in events[:-1]]
    assert {e["type"] for e in events[:-1]} == {"image_generation.progress"}
    assert steps == sorted(set(steps))
    assert events[-1]["type"] == "image_generation.completed"
    assert len(steps) <= 1 + 4 * events[-1]["lego"]["nodes"]["latents"]


def test_a_refusal_of_a_stream_is_an_ordinary_error(server) -> None:
    """What is wrong with the request is answered with a status, not in an event."""
    body = {"prompt": "word " * 60, "stream": True}
    answer = httpx2.post(f"{server.url}/v1/images/generations", json=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "prompt_too_long")
    body = {"prompt": PROMPT, "stream": True, "partial_images": 4}
    assert httpx2.post(f"{server.url}/v1/images/generations", json=body, timeout=30).status_code == 400
