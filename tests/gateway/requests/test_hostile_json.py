"""Bodies that are no JSON, or JSON that nobody should send: each has its status, code and field, and leaves nothing."""

import json

import httpx2
import pytest
from fastapi import FastAPI

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of
from tests.support.gateway.refusals import check_refusal, in_flight, nothing_left
from tests.support.gateway.runner import FakeRunner

URL = "/v1/images/generations"
GOOD = '{"prompt":"a"}'
NOT_JSON = (400, "invalid_json", None)


def body(text: str) -> bytes:
    """A sound body with these fields besides."""
    return b'{"prompt":"a",' + text.encode() + b"}"


def fields(**more: object) -> bytes:
    """A sound body with a field besides, or in place of its prompt."""
    return json.dumps({"prompt": "a"} | more).encode()


REFUSED: dict[str, tuple[bytes, tuple[int, str, str | None]]] = {
    "a mark of byte order": (b"\xef\xbb\xbf" + GOOD.encode(), NOT_JSON),
    "UTF-16": (GOOD.encode("utf-16"), NOT_JSON),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), NOT_JSON),
    "UTF-32": (GOOD.encode("utf-32"), NOT_JSON),
    "a byte that is no UTF-8": (b'{"prompt":"\xff"}', NOT_JSON),
    "an overlong slash": (b'{"prompt":"\xc0\xaf"}', NOT_JSON),
    "half a pair, as bytes": (b'{"prompt":"\xed\xa0\x80"}', NOT_JSON),
    "half a pair, in a value": (b'{"prompt":"\\ud800"}', NOT_JSON),
    "half a pair, in a name": (body('"\\ud800":1'), NOT_JSON),
    "a pair the wrong way round": (b'{"prompt":"\\ude00\\ud83d"}', NOT_JSON),
    "infinity": (body('"guidance_scale":Infinity'), (400, "invalid_value", "guidance_scale")),
    "minus infinity": (body('"guidance_scale":-Infinity'), (400, "invalid_value", "guidance_scale")),
    "no number for an integer": (body('"seed":NaN'), (400, "invalid_type", "seed")),
    "minus zero for an integer": (body('"seed":-0.0'), (400, "invalid_type", "seed")),
    "lists in lists, 900": (body('"user":' + "[" * 900 + "]" * 900), NOT_JSON),
    "lists in lists, 90,000": (body('"user":' + "[" * 90_000 + "]" * 90_000), NOT_JSON),
    "objects in objects": (b'{"a":' * 30_000, NOT_JSON),
    "an integer of 5,000 digits": (body('"seed":' + "1" * 5000), NOT_JSON),
    "two to the 63rd": (body(f'"seed":{2**63}'), (400, "out_of_range", "seed")),
    "two to the 64th": (body(f'"seed":{2**64}'), (400, "out_of_range", "seed")),
    "two to the 70th": (body(f'"n":{2**70}'), (400, "out_of_range", "n")),
    "true for an integer": (body('"n":true'), (400, "invalid_type", "n")),
    "1.0 for an integer": (body('"n":1.0'), (400, "invalid_type", "n")),
    "1e0 for an integer": (body('"n":1e0'), (400, "invalid_type", "n")),
    "text for an integer": (body('"n":"5"'), (400, "invalid_type", "n")),
    "true for a number": (body('"guidance_scale":true'), (400, "invalid_type", "guidance_scale")),
    "text for a number": (body('"guidance_scale":"5"'), (400, "invalid_type", "guidance_scale")),
    "1 for a truth": (body('"stream":1'), (400, "invalid_type", "stream")),
    "text for a truth": (body('"stream":"true"'), (400, "invalid_type", "stream")),
    "a list for text": (b'{"prompt":["a"]}', (400, "invalid_type", "prompt")),
    "an object for text": (b'{"prompt":{"a":1}}', (400, "invalid_type", "prompt")),
    "null for what is needed": (b'{"prompt":null}', (400, "invalid_type", "prompt")),
    "null": (b"null", NOT_JSON),
    "a number": (b"1", NOT_JSON),
    "text": (b'"a"', NOT_JSON),
    "nothing": (b"", NOT_JSON),
    "blanks": (b" \n", NOT_JSON),
    "letters after it": (GOOD.encode() + b"x", NOT_JSON),
    "a second object": (GOOD.encode() * 2, NOT_JSON),
    "a NUL after it": (GOOD.encode() + b"\0", NOT_JSON),
    "a NUL in it": (b'{"prompt":"a\0b"}', NOT_JSON),
    "a line's end in text": (b'{"prompt":"a\nb"}', NOT_JSON),
    "a comma too many": (b'{"prompt":"a",}', NOT_JSON),
    "a comment": (b'{"prompt":"a"/**/}', NOT_JSON),
    "single quotes": (b"{'prompt':'a'}", NOT_JSON),
    "a number with a zero before it": (body('"n":01'), NOT_JSON),
    "a number with a plus": (body('"n":+1'), NOT_JSON),
    "a number in hex": (body('"n":0x1'), NOT_JSON),
    "10,000 names": (fields(**{f"k{number}": 1 for number in range(10_000)}), NOT_JSON),
    "a name of JavaScript": (body('"__proto__":{"n":5}'), (400, "unsupported_parameter", "__proto__")),
    "a name of Python": (body('"__class__":"os"'), (400, "unsupported_parameter", "__class__")),
    "a name of pydantic": (body('"model_config":{}'), (400, "unsupported_parameter", "model_config")),
    "a name with markup": (body('"<img src=x>":1'), (400, "unsupported_parameter", None)),
    "a claim about caches": (body('"cache_hit":true'), (400, "unsupported_parameter", "cache_hit")),
    "a key of caches": (body('"cache_key":"00"'), (400, "unsupported_parameter", "cache_key")),
    "a tenant": (body('"tenant":"other"'), (400, "unsupported_parameter", "tenant")),
}


@pytest.fixture(scope="module")
def runner() -> FakeRunner:
    """The runner behind one gateway for all cases, which leave nothing."""
    return FakeRunner()


@pytest.fixture(scope="module")
def app(runner: FakeRunner) -> FastAPI:
    """The application."""
    settings = GatewaySettings("lego-tiny", max_pending_jobs=2, max_body_bytes=200_000)
    return create_app(runner, runner, settings, Metrics())


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_body_that_cannot_be_is_refused(
    client: httpx2.AsyncClient, app: FastAPI, runner: FakeRunner, kind: str
) -> None:
    """By its field where it has one; no job is made and nothing is held."""
    content, expected = REFUSED[kind]
    with nothing_left(app, runner):
        answer = await client.post(URL, content=content, headers={"content-type": "application/json"})
        assert error_of(answer) == expected
        check_refusal(answer)
    assert await in_flight(client) == 0


@pytest.mark.parametrize(
    "media",
    [
        "", "text/plain", "text/json", "application/jsonx", "application/problem+json", "application/json, text/plain",
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16",
        "application/json;charset=latin-1", 'application/json; charset="punycode"', "application/json; charset=",
        "application/json; charset*=utf-16''x", "application/json; a=b; charset=utf-7",
    ],
)  # fmt: skip
async def test_a_body_of_another_type_or_charset_is_415(
    client: httpx2.AsyncClient, app: FastAPI, runner: FakeRunner, media: str
) -> None:
    """It is not guessed at."""
    with nothing_left(app, runner):
        headers = {"content-type": media} if media else {}
        answer = await client.post(URL, content=GOOD.encode(), headers=headers)
        assert error_of(answer) == (415, "unsupported_media_type", None)
        check_refusal(answer)


@pytest.mark.parametrize(
    "media", ["application/json;", "APPLICATION/JSON; Charset=UTF-8", 'application/json;charset="utf8"']
)
async def test_the_type_is_taken_however_it_is_written(client: httpx2.AsyncClient, media: str) -> None:
    """As clients write it."""
    assert (await client.post(URL, content=GOOD.encode(), headers={"content-type": media})).status_code == 200


PLAIN = {
    "NUL": "a\0b",
    "control characters": "\x01\x1b[31ma",
    "characters that are none": "\ufffe\U000e0fff\U0010ffff",
    "30,000 accents on a letter": "a" + "\u0301" * 30_000,
    "an override of direction": "\u202ea",
    "marks of tokenizers": "<|endoftext|><|startoftext|><image></s>[INST]",
    "a zero-width space": "\u200b",
    "emoji": "\U0001f600" * 1000,
    "code": "${jndi:ldap://a}{{7*7}}'; DROP TABLE jobs;--../../etc/passwd",
}


@pytest.mark.parametrize("kind", PLAIN)
async def test_a_prompt_is_text_and_nothing_else(client: httpx2.AsyncClient, runner: FakeRunner, kind: str) -> None:
    """Whatever is in it reaches the text encoder as it is."""
    answer = await client.post(URL, json={"prompt": PLAIN[kind], "negative_prompt": PLAIN[kind]})
    assert answer.status_code == 200, answer.text
    assert runner.jobs[-1].inputs["prompt"] == PLAIN[kind]
