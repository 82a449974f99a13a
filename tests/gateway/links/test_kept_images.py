"""Answers that hold links: who gets them, what they open, and for how long."""

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from openai import AsyncOpenAI
from openai.types import ImagesResponse

from lego_serve.gateway.app import create_app
from lego_serve.gateway.links.kept_images import ROUTE, KeptImages
from lego_serve.gateway.settings import GatewaySettings, KeptImageSettings
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of, file_of
from tests.support.gateway.durable import Cluster
from tests.support.gateway.runner import FakeRunner

URL = "/v1/images/generations"
BODY = {"prompt": "a", "seed": 3, "size": "96x96"}
LINKS = BODY | {"response_format": "url"}


class Clock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        """The seconds it shows."""
        return self.now


@pytest.fixture
def kept(tmp_path: Path) -> KeptImageSettings:
    """An hour, and room for everything."""
    return KeptImageSettings(FolderBlobs(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where they lie."""
    return tmp_path / "kept"


@pytest.fixture
def settings(settings: GatewaySettings, kept: KeptImageSettings) -> GatewaySettings:
    """The usual ones, with a folder for images."""
    return replace(settings, kept_images=kept)


def at(settings: GatewaySettings, host: str = "localhost:8000") -> httpx2.AsyncClient:
    """A client of a gateway of its own, called by a name."""
    runner = FakeRunner()
    transport = httpx2.ASGITransport(create_app(runner, runner, settings, Metrics()), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}")


@pytest.fixture
async def local(settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client on loopback."""
    async with at(settings) as client:
        yield client


async def test_a_link_opens_the_image_that_the_answer_would_hold(local, settings) -> None:
    """Without a key, for any gateway over the folder, in parts as well; the SDK reads the answer."""
    sdk = AsyncOpenAI(base_url="http://localhost:8000/v1", api_key="none", http_client=local, max_retries=0)
    answer = await sdk.images.generate(prompt="a", n=2, size="256x256", response_format="url", extra_body={"seed": 3})
    ImagesResponse.model_validate(answer.model_dump(exclude={"lego"}))
    whole = await sdk.images.generate(prompt="a", n=2, size="256x256", extra_body={"seed": 3})
    assert answer.data is not None
    assert whole.data is not None
    async with at(settings) as another:
        for linked, held in zip(answer.data, whole.data, strict=True):
            assert linked.b64_json is None
            assert held.url is None
            assert linked.url is not None
            assert linked.url.startswith(f"http://localhost:8000{ROUTE}/")
            fetched = await another.get(linked.url)
            assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/png")
            assert base64.b64encode(fetched.content).decode() == held.b64_json
            assert fetched.headers["cache-control"].startswith("private")
            part = await another.get(linked.url, headers={"range": "bytes=0-3"})
            assert (part.status_code, part.content) == (206, fetched.content[:4])


async def test_files_and_secret_are_for_this_user_alone(local, folder) -> None:
    """What others on the machine could read would open every link."""
    await local.post(URL, json=LINKS | {"n": 2})
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name == "secret": path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {True: 0o600, False: 0o600}
    assert len(list(folder.iterdir())) == 3


async def test_gateways_that_start_together_sign_alike(kept) -> None:
    """One of them makes the secret, and all others read that."""
    gateways = [KeptImages(kept) for _ in range(16)]
    links = await asyncio.gather(*(each.keep("", [b"one"], "png") for each in gateways))
    for [link], other in zip(links, reversed(gateways), strict=True):
        name, _, query = link.removeprefix(f"{ROUTE}/").partition("?")
        expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
        assert await other.open_link(name, expires, signature)


async def test_edits_and_other_formats_have_links_too(local) -> None:
    """With the type that was asked for."""
    fields = {"prompt": "a", "response_format": "url", "output_format": "webp"}
    answer = await local.post("/v1/images/edits", files={"image": file_of()}, data=fields)
    link = answer.json()["data"][0]["url"]
    assert (await local.get(link)).headers["content-type"] == "image/webp"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda link: link.partition("?")[0], "invalid_signature"),
        (lambda link: link.replace("expires=", "expires=9"), "invalid_signature"),
        (lambda link: link[:-1] + ("0" if link[-1] != "0" else "1"), "invalid_signature"),
        (lambda link: link.replace("-0.png", "-1.png"), "invalid_signature"),
        (lambda link: link.replace("/kept/", "/kept/..%2F"), None),
        (lambda link: link.replace("/kept/", "/kept/secret/"), None),
    ],
)
async def test_only_the_link_itself_opens_an_image(local, change, code) -> None:
    """Nothing that was changed, and nothing else in the folder."""
    link = (await local.post(URL, json=LINKS)).json()["data"][0]["url"]
    refused = await local.get(change(link))
    assert refused.status_code == (401 if code else 404)
    assert code in (None, refused.json()["error"]["code"])


async def test_a_link_ends_and_its_file_goes(kept, folder) -> None:
    """The link at its second, the file at the next sweep; what is younger stays."""
    clock = Clock()
    images = KeptImages(kept, clock)
    [first] = await images.keep("", [b"one"], "png")
    name, _, query = first.removeprefix(f"{ROUTE}/").partition("?")
    expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
    assert (await images.open_link(name, expires, signature)).read_bytes() == b"one"
    os.utime(folder / name, (clock.now, clock.now))
    clock.now += kept.keep_s
    images.sweep()
    assert (folder / name).exists()
    with pytest.raises(Exception, match="expired"):
        await images.open_link(name, expires, signature)
    clock.now += 1
    images.sweep()
    assert [path.name for path in folder.iterdir()] == ["secret"]


async def test_the_oldest_go_where_all_take_too_much(kept, folder) -> None:
    """As many as needed."""
    clock = Clock()
    images = KeptImages(replace(kept, max_bytes=250), clock)
    for age in range(4):
        [path] = await images.keep("", [bytes(100)], "png")
        os.utime(folder / path.removeprefix(f"{ROUTE}/").partition("?")[0], (clock.now - age, clock.now - age))
    images.sweep()
    assert sorted(clock.now - path.stat().st_mtime for path in folder.glob("*.png")) == [0, 1]


async def test_a_gateway_sweeps_by_itself(kept, folder) -> None:
    """Also what an earlier server has left."""
    images = KeptImages(replace(kept, keep_s=0.05))
    await images.keep("", [b"one"], "png")
    images.start()
    deadline = time.monotonic() + 60
    while list(folder.glob("*.png")) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    await images.close()
    assert not list(folder.glob("*.png"))


async def test_a_folder_that_cannot_be_written_is_said(settings, folder) -> None:
    """503 that tells what to ask for instead."""
    folder.write_text("in the way")
    async with at(settings) as client:
        assert error_of(await client.post(URL, json=LINKS)) == (503, "store_unavailable", "response_format")
        assert (await client.post(URL, json=BODY)).status_code == 200


async def test_links_begin_with_what_clients_can_reach(settings) -> None:
    """The configured address, with its path; on loopback the one that was asked; elsewhere there are none."""
    public = replace(settings, public_url="https://images.example/lego")
    async with at(public, "elsewhere") as client:
        link = (await client.post(URL, json=LINKS)).json()["data"][0]["url"]
        assert link.startswith(f"https://images.example/lego{ROUTE}/")
        assert (await client.get(link.removeprefix("https://images.example/lego"))).status_code == 200
    async with at(settings, "elsewhere") as client:
        refused = await client.post(URL, json=LINKS)
        assert error_of(refused) == (400, "unsupported_parameter", "response_format")
        assert "public_url" in refused.json()["error"]["message"]


async def test_links_may_be_what_a_server_answers_by_default(settings) -> None:
    """For clients that join `url` unread; who asks for images, or a stream of them, gets images."""
    async with at(replace(settings, default_response_format="url")) as client:
        assert "url" in (await client.post(URL, json=BODY)).json()["data"][0]
        asked = await client.post(URL, json=BODY | {"response_format": "b64_json"})
        assert set(asked.json()["data"][0]) == {"b64_json", "seed"}
        assert "b64_json" in (await client.post(URL, json=BODY | {"stream": True})).text
    async with at(settings) as client:
        refused = await client.post(URL, json=LINKS | {"stream": True})
        assert error_of(refused) == (400, "invalid_value", "response_format")


async def test_a_durable_job_answers_with_links_to_its_own_images(tmp_path: Path, kept, folder) -> None:
    """The result of a request that asked for links; the key of a repeated one stands for the same links."""
    settings = GatewaySettings("lego-tiny", kept_images=kept)
    async with Cluster(tmp_path / "jobs", settings).gateway() as gateway:
        headers = {"idempotency-key": "k"}
        first, again = [(await gateway.client.post(URL, json=LINKS, headers=headers)).json() for _ in range(2)]
        [image] = first["data"]
        assert "/v1/jobs/" in image["url"]
        assert again["data"] == first["data"]
        assert (await gateway.client.get(image["url"])).headers["content-type"] == "image/png"
        assert not list(folder.glob("*.png"))


async def test_a_job_that_wants_links_is_refused_where_there_are_none(tmp_path: Path, kept) -> None:
    """When it is submitted, as any request is, and not when its result is asked for."""
    settings = GatewaySettings("lego-tiny", kept_images=kept)
    async with Cluster(tmp_path / "jobs", settings).gateway() as gateway:
        job = {"endpoint": URL, "body": LINKS}
        refused = await gateway.client.post("/v1/jobs", json=job, headers={"host": "elsewhere"})
        assert error_of(refused) == (400, "unsupported_parameter", "response_format")
        assert (await gateway.client.post("/v1/jobs", json=job)).status_code == 202
