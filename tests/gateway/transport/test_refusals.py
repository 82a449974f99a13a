"""What the gateway refuses before a route answers is counted as what it is, and says the limit."""

import json
import re

from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.wire import Gateway, Reader, gateway, generation, head, wait_for


def counted(server: Gateway) -> dict[str, float]:
    """The requests for images that ended before their workflow was known, by outcome."""
    with server.connect() as connection:
        connection.sendall(head("GET", "/metrics"))
        page = Reader(connection).answer().body.decode()
    found = re.findall(r'^lego_serve_requests_total\{outcome="(\w+)",workflow="none"\} (\S+)', page, re.M)
    return {outcome: float(count) for outcome, count in found}


def assert_counted(server: Gateway, wanted: dict[str, float]) -> None:
    """These and no others are counted, once the application has heard of what its clients were told."""
    wait_for(lambda: sum(counted(server).values()) >= sum(wanted.values()))
    assert counted(server) == wanted


def refused(server: Gateway, request: bytes) -> tuple[int, str, str]:
    """The status, code and message that a request gets."""
    with server.asked(request) as connection:
        answer = Reader(connection).answer()
        return answer.status, answer.code, json.loads(answer.body)["error"]["message"]


def test_a_body_that_does_not_come_is_no_hang_up() -> None:
    """It is `request_timeout` in the metrics, as in the answer, which says how late it was; so is a bad chunk."""
    with gateway(body_timeout_s=0.2, body_bytes_per_s=1000) as server:
        status, code, message = refused(server, generation("Expect: nothing")[:-1])
        assert (status, code) == (408, "request_timeout")
        assert "0.2 s behind 1000 bytes a second" in message
        bad_chunk = generation("Transfer-Encoding: chunked")[:-5] + b"zz\r\n"
        assert refused(server, bad_chunk)[:2] == (400, "bad_request")
        assert_counted(server, {"request_timeout": 1, "bad_request": 1})


def test_what_is_refused_before_its_route_is_counted() -> None:
    """Too large a body, a coded one, another host, another origin's page; requests for other than images are not."""
    settings = GatewaySettings("lego-tiny", max_body_bytes=200_000, allowed_hosts=frozenset())
    with gateway(settings) as server:
        assert refused(server, generation(body=b" " * 200_001))[:2] == (413, "body_too_large")
        assert refused(server, generation("Content-Encoding: gzip"))[:2] == (415, "unsupported_media_type")
        elsewhere = generation().replace(b"Host: localhost", b"Host: example.org")
        assert refused(server, elsewhere)[:2] == (421, "misdirected_request")
        assert refused(server, generation("Origin: http://example.org"))[:2] == (403, "cross_site")
        assert refused(server, head("GET", "/v1/models", "Content-Encoding: gzip"))[0] == 415
        codes = ("body_too_large", "unsupported_media_type", "misdirected_request", "cross_site")
        assert_counted(server, dict.fromkeys(codes, 1))


def test_a_head_that_is_too_large_is_told_the_limit() -> None:
    """Of its target, and of its headers."""
    with gateway(target_bytes=100, head_bytes=2000, headers=5) as server:
        assert refused(server, head("GET", "/" + "a" * 100))[2] == "The request's target is longer than 100 bytes."
        status, _, message = refused(server, head("GET", "/", *(f"x-{i}: 1" for i in range(6))))
        assert (status, message) == (431, "Headers of over 2000 bytes or 5 lines are not taken.")
