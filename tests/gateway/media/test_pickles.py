"""A client sends pickles wherever bytes are taken: none is ever opened, and each is refused as what it is not."""

import base64
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import websockets
from fastapi import FastAPI

from lego_serve.errors import InvalidAdapter
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.models.lora.checkpoint import read_adapter_file
from tests.support.gateway.client import registered
from tests.support.gateway.comfyui import Served, memory_storage, served
from tests.support.gateway.pickles import HOSTILE, MEDIA, accepted_bodies, refused_bodies
from tests.support.gateway.runner import FakeRunner

SENDING = {"POST", "PUT", "PATCH"}
# Those that read no body, or an empty one: they get the raw bytes as all others do.
WITHOUT_FILES = {
    ("POST", path)
    for path in (
        "/v1/jobs/{job_id}/cancel",
        "/v1/admin/jobs/{job_id}/pause",
        "/v1/admin/jobs/{job_id}/resume",
        "/v1/admin/replicas/{replica}/drain",
        "/v1/admin/templates/{tenant}/{template_id}/warm",
        *(f"/sdapi/v1/{name}" for name in ("interrupt", "skip", "reload-checkpoint", "unload-checkpoint")),
        *(f"/sdapi/v1/refresh-{name}" for name in ("checkpoints", "loras", "vae", "embeddings")),
        *(
            f"{start}/{name}"
            for start in ("", "/api")
            for name in ("queue", "history", "interrupt", "jobs/{prompt_id}/cancel", "free")
        ),
    )
}
NAMES = {"job_id": "job_known", "replica": "r1", "node": "lego-tiny.backbone", "tenant": "default", "prompt_id": "a"}
_opened: list[str] = []
_is_watching = False


def _audit(event: str, arguments: object) -> None:
    if _is_watching and event in ("pickle.find_class", "os.system"):
        _opened.append(event)


@pytest.fixture(autouse=True)
def opened() -> Iterator[list[str]]:
    """What was unpickled or run during a test: the interpreter itself tells."""
    global _is_watching
    if not getattr(sys, "_lego_audits", False):
        sys.addaudithook(_audit)  # one cannot be removed again
        sys._lego_audits = True  # type: ignore[attr-defined]
    _opened.clear()
    _is_watching = True
    yield _opened
    _is_watching = False


def test_the_watch_sees_a_pickle(opened: list[str]) -> None:
    """Or this file would show nothing."""
    assert pickle.loads(pickle.dumps(Path)) is Path
    assert opened


@pytest.fixture
async def everything(settings: GatewaySettings, tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway on a real socket with every route that there is."""
    settings = replace(settings, compat=frozenset({"a1111", "comfyui"}))
    async with served(FakeRunner(), settings, memory_storage(tmp_path / "jobs")) as gateway:
        yield gateway


def sending_routes(app: FastAPI) -> set[tuple[str, str]]:
    """The methods and paths of all routes that a body can be sent to."""
    methods = {
        (method, getattr(route, "path", "")) for route in app.routes for method in getattr(route, "methods", None) or ()
    }
    return {(method, path) for method, path in methods if method in SENDING}


async def test_every_route_that_takes_a_body_is_tried(everything: Served) -> None:
    """A new one fails here until it stands in one of the lists."""
    app = everything.server.config.app
    assert sending_routes(app) == set(refused_bodies(b"")) | set(accepted_bodies(b"")) | WITHOUT_FILES


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_route_opens_a_pickle(everything: Served, opened: list[str], content: bytes) -> None:
    """As a body of any type, as an image, a mask, a control image, a template, a name, a graph, and in any text."""
    client = everything.client
    names = NAMES | {"template_id": (await registered(client))["id"]}
    for method, path in sorted(sending_routes(everything.server.config.app)):
        for kind in MEDIA:
            answer = await client.request(
                method, path.format_map(names), content=content, headers={"content-type": kind}
            )
            assert answer.status_code < 500 or answer.status_code == 501, (method, path, kind, answer.text)
    for (method, path), sent in refused_bodies(content).items():
        for body in sent:
            answer = await client.request(method, path.format_map(names), **body)
            assert 400 <= answer.status_code < 500, (method, path, list(body), answer.status_code, answer.text)
    for (method, path), sent in accepted_bodies(content).items():
        for body in sent:
            answer = await client.request(method, path.format_map(names), **body)
            assert answer.status_code < 500, (method, path, answer.text)
    assert not opened


async def test_a_control_image_is_refused_for_what_it_is(client) -> None:
    """And not for its name, or a field that is none: it comes as far as the decoder of images."""
    for content in HOSTILE:
        text = base64.b64encode(content).decode()
        body = {"prompt": "a", "controlnet": [{"name": "edges", "image": text}]}
        error = (await client.post("/v1/images/generations", json=body)).json()["error"]
        assert (error["param"], error["code"]) == ("controlnet[0].image", "invalid_image")


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_listener_opens_a_pickle(everything: Served, opened: list[str], content: bytes) -> None:
    """As bytes and as text, alone and as the data of what clients say."""
    text = base64.b64encode(content).decode()
    async with websockets.connect(f"ws://127.0.0.1:{everything.port}/ws") as connection:
        await connection.recv()
        for said in (content, text, f'{{"type": "feature_flags", "data": "{text}"}}'):
            await connection.send(said)
            await (await connection.ping())
    assert not opened


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.pt", "a.ckpt"])
def test_no_adapter_file_is_unpickled(tmp_path: Path, opened: list[str], content: bytes, name: str) -> None:
    """Whatever its name says."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidAdapter):
        read_adapter_file("a", tmp_path / name)
    assert not opened
