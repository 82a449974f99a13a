"""What the pages cost: bytes, requests and frames, with two hundred models and a thousand requests in flight."""

import pytest
from playwright.sync_api import expect

from benchmarks.dashboard.browsing import FRAMES, LOADED
from benchmarks.dashboard.site import Large
from tests.support.ui.lively import LivelyRunner
from tests.support.ui.sites import ask

BUSY = 3  # a machine that does other things too takes so many times longer


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> LivelyRunner:
    """A large one where the test says so."""
    return Large() if request.node.get_closest_marker("long") else LivelyRunner(step_s=0.004)


@pytest.mark.long
@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/requests", "/dashboard/models"])
def test_a_large_cluster_keeps_the_page_quick(visit, path: str) -> None:
    """Of 100 frames 95 take at most 34 ms; the longest task is under 100 ms where nothing else runs."""
    page = visit(path)
    expect(page.locator(".pill")).to_contain_text("Live")
    expect(page.locator(".shape")).to_have_count(0)
    page.wait_for_timeout(1500)
    figures = page.evaluate(FRAMES, 6.0)
    assert figures["p95"] <= 34
    assert figures["longest"] <= 300  # a machine that does other things too takes three times as long


@pytest.mark.parametrize(("path", "kilobytes", "requests"), [("/", 50, 14), ("/dashboard", 80, 14)])
def test_a_page_is_small_and_soon_there(visit, site, path: str, kilobytes: int, requests: int) -> None:
    """What it loads until something is seen, with what it asks for."""
    ask(site, num_inference_steps=2).join()
    page = visit(path)
    if path != "/":
        expect(page.locator(".waterfall")).to_be_visible()
    page.wait_for_timeout(300)
    loaded = page.evaluate(LOADED)
    assert loaded["bytes"] <= kilobytes * 1000
    assert loaded["requests"] <= requests
    assert loaded["paint"] <= 1000 * BUSY
