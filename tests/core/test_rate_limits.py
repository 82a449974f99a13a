"""What a tenant may ask for: what a request costs, when it can be paid, and what the answer says of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.rate_limits import (
    WINDOW_S,
    Quota,
    Standing,
    TenantLimits,
    duration,
    exceeded,
    headers,
    pixel_steps,
)
from lego_serve.workflow_files import built_in_workflows

REQUESTS, WORK = TenantLimits(requests=60, work=1_000_000).quotas
SIZE = {"width": 128, "height": 96, "steps": 20, "n": 1}
IMAGE = 128 * 96 * 20


@pytest.mark.parametrize(
    ("workflow", "inputs", "work"),
    [
        ("lego-tiny", {"guidance": 4.0}, 2 * IMAGE),
        ("lego-tiny", {"guidance": 1.0}, IMAGE),
        ("lego-tiny", {"guidance": 4.0, "n": 3}, 6 * IMAGE),
        ("lego-tiny-edit", {"guidance": 4.0}, 2 * IMAGE),
        ("flux-dev", {"guidance": 4.0, "steps": 10}, IMAGE // 2),
    ],
)
def test_work_is_pixels_times_steps_times_branches(workflow, inputs, work) -> None:
    """A distilled model has one branch, whatever its guidance, and so has one that nothing guides."""
    assert pixel_steps(built_in_workflows()[workflow], SIZE | inputs) == work


def test_without_limits_there_are_no_quotas_and_no_headers() -> None:
    """Nothing is limited by default."""
    assert TenantLimits().quotas == ()
    assert headers(()) == {}
    assert exceeded((), {"requests": 1}) is None


@given(st.integers(1, 10**9), st.data())
def test_what_cannot_be_paid_now_can_be_after_its_wait(limit, data) -> None:
    """A bucket fills evenly over a minute; a cost beyond the whole of it is never paid."""
    quota = Quota("work", limit)
    used = data.draw(st.integers(0, limit))
    cost = data.draw(st.integers(1, 2 * limit))
    standing = Standing(quota, limit - used, used * WINDOW_S / limit)
    wait_s = standing.wait_s(cost)
    if cost > limit:
        assert wait_s == math.inf
        return
    filled = limit - used + wait_s * limit / WINDOW_S
    assert filled == pytest.approx(max(cost, limit - used), rel=1e-6)
    found = exceeded([standing], {"work": cost})
    assert (found is None) == (cost <= limit - used)


def test_the_quota_that_takes_longest_is_named() -> None:
    """A client that waits as long is let in."""
    standings = [Standing(REQUESTS, 0, 60.0), Standing(WORK, 0, 60.0)]
    found = exceeded(standings, {"requests": 1, "work": 500_000})
    assert found is not None
    assert (found.quota, found.cost, found.wait_s) == (WORK, 500_000, 30.0)


def test_headers_tell_every_quota() -> None:
    """As the draft and as OpenAI write them."""
    assert headers([Standing(REQUESTS, 58, 1.2), Standing(WORK, 900_000, 6.0)]) == {
        "ratelimit-policy": '"requests";q=60;w=60, "work";q=1000000;w=60;qu="pixel-steps"',
        "ratelimit": '"requests";r=58;t=2, "work";r=900000;t=6',
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "1.2s",
    }
    assert "x-ratelimit-limit-requests" not in headers([Standing(WORK, 1, 1.0)])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (59.9999, "1m0s"), (360, "6m0s"), (61.5, "1m1.5s")]
)
def test_durations_are_written_as_openai_writes_them(seconds, text) -> None:
    """No client is told less than it has to wait."""
    assert duration(seconds) == text
