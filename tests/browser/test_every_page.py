"""Every page, in both themes, on a desk and on a phone: nothing complains, nothing is too wide, axe finds nothing."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.ui.shots import SHOTS, keep
from tests.support.ui.sites import DESK, PHONE, Site, fill_history, keep_busy

PAGES = (
    "/", "/dashboard", "/dashboard/requests", "/dashboard/requests/JOB", "/dashboard/models/lego-tiny",
    "/dashboard/workflows", "/dashboard/workflows/lego-tiny-edit-lora", "/dashboard/caches", "/dashboard/decisions",
)  # fmt: skip
MORE_LOOKS = [(DESK, "dark"), (PHONE, "light"), (PHONE, "dark"), ((320, 640), "light"), ((640, 400), "light")]


def check(page: Page, width: int) -> None:
    """Look at a page as it is."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def make_one(page: Page) -> None:
    """Have an image made in the playground."""
    page.locator("#field-prompt").fill("a large red circle on the left, blue background")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(re.compile("Done in"))).to_be_attached(timeout=60_000)


def check_all(site: Site, visit: Callable[..., Page], size: tuple[int, int], theme: str, **options: Any) -> None:
    """Look at every page of a site where things have happened, one after another in one tab."""
    job = fill_history(site)
    site.runner.step_s = 0.06 if SHOTS else site.runner.step_s
    busy = keep_busy(site) if SHOTS else threading.Event()
    page = visit("/", size, theme, **options)
    for path in PAGES:
        page.goto(site.url + path.replace("JOB", job))
        if path == "/":
            expect(page.get_by_text(re.compile("workflows? ready"))).to_be_attached()
        else:
            expect(page.locator(".pill")).to_contain_text("Live")
        expect(page.locator(".shape")).to_have_count(0)
        if SHOTS is not None:
            page.wait_for_timeout(3500 if path == "/dashboard" else 700)
            if path == "/":
                make_one(page)
        check(page, size[0])
        if not options:
            keep(page, f"{path.replace('JOB', 'one').strip('/').replace('/', '-') or 'playground'}-{theme}-{size[0]}")
    busy.set()


def test_every_page(site, visit) -> None:
    """On a desk by day."""
    check_all(site, visit, DESK, "light")


@pytest.mark.long
@pytest.mark.parametrize(("size", "theme"), MORE_LOOKS)
def test_every_page_otherwise(site, visit, size: tuple[int, int], theme: str) -> None:
    """By night, on a phone, on the smallest screen, and on a desk's at twice the size."""
    check_all(site, visit, size, theme)


@pytest.mark.long
def test_every_page_in_the_systems_colours(site, visit) -> None:
    """Which a user has chosen for all programs."""
    check_all(site, visit, DESK, "light", forced_colors="active")
