"""Whatever is sent to the foreign protocols is answered, and never as the server's fault."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.comfyui import memory_storage
from tests.support.gateway.runner import FakeRunner
from tests.support.graphs import masked_edit, text_to_image

POSTS = (
    *(f"/sdapi/v1/{name}" for name in ("txt2img", "img2img", "options", "png-info", "interrupt", "skip")),
    *("/prompt", "/queue", "/history", "/interrupt", "/jobs/x/cancel", "/upload/image", "/upload/mask", "/free"),
)
GETS = (
    *("/sdapi/v1/progress", "/prompt", "/queue", "/history", "/history/x", "/view", "/object_info/x", "/models/x"),
    *("/ws", "/api/ws"),
)
SIMPLE = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
JSON = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
A1111_FIELDS = (
    *("prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "batch_size", "n_iter", "mask"),
    *("sampler_name", "scheduler", "init_images", "alwayson_scripts", "override_settings", "denoising_strength"),
    *("mask_blur", "styles", "script_name", "sd_model_checkpoint", "image"),
)


@pytest.fixture
async def client(settings: GatewaySettings, tmp_path: Path) -> Any:
    """A client of a gateway with a store, without a socket."""
    runner = FakeRunner()
    app = create_app(runner, runner, settings, Metrics(), storage=memory_storage(tmp_path / "jobs"))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def answered(client: httpx2.AsyncClient, method: str, path: str, **sent: Any) -> None:
    """It is, with a status below 500."""
    answer = await client.request(method, path, **sent)
    assert answer.status_code < 500, (path, sent, answer.text)


@pytest.mark.parametrize("path", POSTS)
@given(body=JSON)
@examples(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_any_json_is_answered(client: httpx2.AsyncClient, path: str, body: Any) -> None:
    """By every route that reads a body."""
    await answered(client, "POST", path, json=body)


@given(
    fields=st.dictionaries(st.sampled_from(A1111_FIELDS), JSON, max_size=5),
    route=st.sampled_from(("txt2img", "img2img", "options")),
)
@examples(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_value_of_a_known_field_is_answered(client: httpx2.AsyncClient, fields: Any, route: str) -> None:
    """By A1111's routes."""
    await answered(client, "POST", f"/sdapi/v1/{route}", json={"prompt": "a"} | fields)


@given(data=st.data())
@examples(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_graph_with_anything_in_it_is_answered(client: httpx2.AsyncClient, data: st.DataObject) -> None:
    """Wherever it is changed."""
    graph: Any = data.draw(st.sampled_from((text_to_image(), masked_edit())))
    node = graph[data.draw(st.sampled_from(sorted(graph)))]
    name = data.draw(st.sampled_from(sorted(node["inputs"])))
    node["inputs"][name] = data.draw(JSON | st.tuples(st.sampled_from(sorted(graph)), st.integers(-1, 3)).map(list))
    await answered(client, "POST", "/prompt", json={"prompt": graph})


@pytest.mark.parametrize("path", GETS)
@given(query=st.dictionaries(st.sampled_from(("filename", "subfolder", "type", "max_items", "clientId")), st.text()))
@examples(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_query_is_answered(client: httpx2.AsyncClient, path: str, query: Any) -> None:
    """By every route that reads one."""
    await answered(client, "GET", path, params=query)


@pytest.mark.parametrize("path", ["/upload/image", "/upload/mask", "/api/upload/image"])
@pytest.mark.parametrize("charset", ["charset=punycode", "charset*0=punycode", "charset*=idna''idna", "charset=utf-16"])
async def test_no_codec_is_chosen_by_who_uploads(client: httpx2.AsyncClient, path: str, charset: str) -> None:
    """Some raise what nobody expects, and some take seconds."""
    part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    body = part % (b"type", b"b" * 8000 + b"-" + b"aaaa" * 1800) + part % (b"f1", b"a") + b"--x--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=x; {charset}"}
    assert (await client.post(path, content=body, headers=headers)).status_code in (400, 415)
