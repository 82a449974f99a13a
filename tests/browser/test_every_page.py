"""Every page, in both themes, on a desk and on a phone: nothing complains, nothing is too wide, axe finds nothing."""

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.ui.sites import DESK, PHONE, Site, fill_history

PAGES = (
    "/", "/dashboard", "/dashboard/requests", "/dashboard/requests/JOB", "/dashboard/models/lego-tiny",
    "/dashboard/workflows", "/dashboard/workflows/lego-tiny-edit-lora", "/dashboard/caches", "/dashboard/decisions",
)  # fmt: skip
MORE_LOOKS = [(DESK, "dark"), (PHONE, "light"), (PHONE, "dark"), ((320, 640), "light")]


def check(page: Page, width: int) -> None:
    """Look at a page as it is."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def check_all(site: Site, visit: Callable[..., Page], size: tuple[int, int], theme: str) -> None:
    """Look at every page of a site where things have happened, one after another in one tab."""
    job = fill_history(site)
    page = visit("/", size, theme)
    for path in PAGES:
        page.goto(site.url + path.replace("JOB", job))
        if path == "/":
            expect(page.get_by_text(re.compile("workflows? ready"))).to_be_attached()
        else:
            expect(page.locator(".pill")).to_contain_text("Live")
        expect(page.locator(".shape")).to_have_count(0)
        check(page, size[0])


def test_every_page(site, visit) -> None:
    """On a desk by day."""
    check_all(site, visit, DESK, "light")


@pytest.mark.long
@pytest.mark.parametrize(("size", "theme"), MORE_LOOKS)
def test_every_page_otherwise(site, visit, size: tuple[int, int], theme: str) -> None:
    """By night, on a phone, and on the smallest screen."""
    check_all(site, visit, size, theme)
