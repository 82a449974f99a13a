"""What each port answers, and what is answered before models are there."""

import pytest
from starlette.types import Receive, Scope, Send

from lego_serve.gateway.peers import HEADER, MACHINE
from lego_serve.gateway.transport.ports import SplitPorts, WhileStarting

OPERATIONS, API = 8001, 8000
CASES = [
    (API, "/v1/images/generations", {}, True),
    (API, "/health/ready", {}, True),
    (API, "/metrics", {}, False),
    (API, "/v1/admin/jobs", {}, False),
    (API, "/v1/admin/jobs", {HEADER: MACHINE}, False),
    (OPERATIONS, "/metrics", {}, True),
    (OPERATIONS, "/health/live", {}, True),
    (OPERATIONS, "/v1/admin/jobs", {}, True),
    (OPERATIONS, "/v1/models", {}, False),
    (OPERATIONS, "/v1/templates/tmpl_a", {HEADER: MACHINE}, True),
    (None, "/metrics", {}, True),
    (None, "/v1/images/generations", {}, True),
]


class Passed:
    """An application that notes whether it was asked, and what else was sent."""

    def __init__(self) -> None:
        self.is_asked, self.sent = False, list[dict[str, object]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note it."""
        self.is_asked = True

    async def send(self, message: dict[str, object]) -> None:
        """Note a message."""
        self.sent.append(message)


def scope_of(port: int | None, path: str, headers: dict[str, str]) -> Scope:
    """A request that came in at a port; None is a socket of this machine."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    server = ("/a.sock", None) if port is None else ("10.0.0.1", port)
    return {"type": "http", "path": path, "server": server, "headers": raw}


async def no_receive() -> dict[str, object]:
    """Nothing comes."""
    return {}


@pytest.mark.parametrize(("port", "path", "headers", "is_answered"), CASES)
async def test_operators_have_a_port_of_their_own(
    port: int | None, path: str, headers: dict[str, str], is_answered: bool
) -> None:
    """Health is answered everywhere, a socket of this machine answers all, and what is refused is 404."""
    app = Passed()
    await SplitPorts(app, OPERATIONS)(scope_of(port, path, headers), no_receive, app.send)
    assert app.is_asked is is_answered
    assert [message.get("status") for message in app.sent][:1] == ([] if is_answered else [404])


async def test_requests_are_refused_until_the_models_have_answered_once() -> None:
    """Health, metrics and operators are answered all the while, and a cluster that is lost later refuses nothing."""
    ready = [False]
    for path, is_answered in (("/v1/models", False), ("/health/live", True), ("/metrics", True)):
        app = Passed()
        await WhileStarting(app, lambda: ready[0])(scope_of(API, path, {}), no_receive, app.send)
        assert app.is_asked is is_answered
    app = Passed()
    starting = WhileStarting(app, lambda: ready[0])
    await starting(scope_of(API, "/v1/models", {}), no_receive, app.send)
    assert (app.sent[0]["status"], dict(app.sent[0]["headers"])[b"retry-after"]) == (503, b"5")
    ready[0] = True
    await starting(scope_of(API, "/v1/models", {}), no_receive, app.send)
    app.is_asked, ready[0] = False, False
    await starting(scope_of(API, "/v1/models", {}), no_receive, app.send)
    assert app.is_asked
