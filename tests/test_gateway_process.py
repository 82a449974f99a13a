"""What a gateway makes of its configuration."""

from pathlib import Path

import pytest

from lego_serve.config import load
from lego_serve.core.rate_limits import TenantLimits
from lego_serve.gateway.settings import LimitSettings
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway_process import _connection_limits, _gateway_settings
from lego_serve.served_workflows import configured

MODEL = "models: {lego-tiny: {path: 'builtin:lego-tiny', max_sequence_length: 0}}\n"
KEYS = f"keys: [{{sha256: '{'0' * 64}', tenant: a}}]\n"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        (MODEL, frozenset()),
        (MODEL + "server: {allowed_hosts: [Lab.example, '::2']}\n", frozenset({"lab.example", "::2"})),
        (MODEL + KEYS, None),
        (MODEL + KEYS + "server: {allowed_hosts: [a]}\n", frozenset({"a"})),
    ],
)
def test_any_name_is_answered_only_where_there_are_keys(text: str, hosts: frozenset[str] | None, tmp_path) -> None:
    """Without them loopback's and those of the configuration."""
    path: Path = tmp_path / "config.yaml"
    path.write_text(text)
    settings, workflows = configured(path)
    assert _gateway_settings(settings, workflows, path, tmp_path).allowed_hosts == hosts


def test_the_limits_of_connections_are_those_of_the_configuration(tmp_path) -> None:
    """Each key is one, its default the same; a refused body is heard out up to the size of the largest allowed."""
    path: Path = tmp_path / "config.yaml"
    path.write_text(MODEL)
    largest = load(path).server.max_body_bytes
    assert _connection_limits(load(path).server) == ConnectionLimits(linger_bytes=largest)
    path.write_text(MODEL + "server: {max_body_bytes: 5000000, limits: {keep_alive_s: 650}}\n")
    assert _connection_limits(load(path).server) == ConnectionLimits(keep_alive_s=650, linger_bytes=5_000_000)


TENANTS = """tenant_limits: {requests_per_minute: 60, max_in_flight: 4, max_stored_bytes: 1000}
tenants: {a: {work_per_minute: 5000000, max_in_flight: null, max_queued: 3, max_stored_bytes: 0}}
"""


def test_a_tenants_limits_are_the_usual_ones_but_for_what_is_said_of_it(tmp_path) -> None:
    """A key that is given replaces the usual one, and null lifts it; they are counted where jobs are kept in Redis."""
    path: Path = tmp_path / "config.yaml"
    for text, limits in (
        (MODEL + KEYS, LimitSettings()),
        (MODEL + KEYS + "jobs: {store: 'redis://r:1/0'}\n", LimitSettings(redis_url="redis://r:1/0")),
        (
            MODEL + KEYS + TENANTS,
            LimitSettings(
                TenantLimits(requests=60, in_flight=4, stored_bytes=1000),
                {"a": TenantLimits(requests=60, work=5_000_000, queued=3, stored_bytes=0)},
            ),
        ),
    ):
        path.write_text(text)
        settings, workflows = configured(path)
        assert _gateway_settings(settings, workflows, tmp_path, tmp_path).limits == limits


def test_what_is_logged_is_what_the_configuration_says(tmp_path) -> None:
    """Requests but no prompts, unless it says otherwise."""
    path: Path = tmp_path / "config.yaml"
    for text, expected in (("", (True, False)), ("server: {access_log: false, log_prompts: true}\n", (False, True))):
        path.write_text(MODEL + text)
        settings, workflows = configured(path)
        gateway = _gateway_settings(settings, workflows, tmp_path, tmp_path)
        assert (gateway.access_log, gateway.log_prompts) == expected
