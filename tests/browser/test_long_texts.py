"""Names, prompts and errors of 32,000 characters: no row becomes tall, no table wide, no column is squeezed."""

import json
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from lego_serve.errors import RequestError
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.ui.sites import DESK, PHONE, Site, ask, fill_history

LONG = 32_000
NAMES = ("name", "tenant", "caption", "model", "workflow", "class", "machine", "said", "why", "subject")
HEIGHTS = "all => all.map((each) => each.clientHeight)"
TALLEST = 190  # px of a row: six lines of text, a thumb, two buttons
# Of each table: its columns' least width, its tallest row, and what it is wider than its room by.
LOOK = """() => [...document.querySelectorAll("table.plain")].map((table) => {
  const room = table.closest(".table-room") ?? table.parentElement;
  const cells = [...table.querySelectorAll("tbody tr:first-child > *")];
  const rows = [...table.querySelectorAll("tbody tr")];
  return {
    table: room.getAttribute("aria-label"),
    narrowest: Math.min(...cells.filter((cell) => cell.innerText).map((cell) => cell.clientWidth)),
    tallest: Math.max(...rows.map((row) => row.clientHeight)),
    over: room.scrollWidth - Math.max(room.clientWidth, 620),
  };
})"""


def long_of(name: str) -> str:
    """A text without a place to break, that says what it is."""
    return name + "w" * (LONG - len(name))


def lengthened(value: Any) -> Any:
    """An answer with long texts in place of all names and sentences."""
    if isinstance(value, list):
        return [lengthened(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: long_of(each) if name in NAMES and isinstance(each, str) else lengthened(each)
        for name, each in value.items()
    }


def lengthen(route: Route) -> None:
    """Answer as the server does, with long names."""
    answer = route.fetch()
    route.fulfill(response=answer, body=json.dumps(lengthened(answer.json())))


def check(page: Page, width: int) -> None:
    """The page has its width and is no longer than some screens, and every table has its columns and rows."""
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.documentElement.scrollHeight") < 5000
    for look in page.evaluate(LOOK):
        assert look["over"] <= 0, look
        assert look["tallest"] <= TALLEST, look
        assert look["narrowest"] >= 20, look


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize(
    ("path", "lists"),
    [
        ("caches", ("templates", "adapters", "caches")),
        ("decisions", ("decisions", "errors")),
        ("workflows/lego-tiny", ("workflows",)),
    ],
)
def test_long_names_and_sentences_keep_tables_in_shape(
    visit, site, path: str, lists: tuple[str, ...], size: tuple[int, int]
) -> None:
    """In each list; the whole is a title."""
    fill_history(site)
    page = visit("/", size)
    for each in lists:
        page.route(f"**/v1/admin/{each}*", lengthen)
        page.route(f"**/v1/admin/{each}/*", lengthen)
    page.goto(f"{site.url}/dashboard/{path}")
    expect(page.locator(".words", has_text="wwww").first).to_be_visible()
    expect(page.locator(".shape")).to_have_count(0)
    check(page, size[0])
    if path == "caches":
        page.get_by_role("button", name="Warm…").first.click()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["height"] <= size[1]
        expect(page.get_by_role("dialog").get_by_role("button", name="Leave it")).to_be_in_viewport()
        page.keyboard.press("Escape")
    titles = page.locator(".words[title]").evaluate_all("all => all.map((each) => each.title.length)")
    assert LONG in titles


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_long_prompt_a_long_tenant_and_a_long_error_are_rows_like_others(
    visit, site, told, size: tuple[int, int]
) -> None:
    """As the server itself tells them: in the list, in the request whole, and among errors and decisions."""
    told.allow("401", "ERR_INCOMPLETE")  # until it has its key; the server ends with the stream open
    tenant = long_of("shop")
    keys = (ApiKey(sha256(b"ops").hexdigest(), tenant, True),)
    with Live(create_app(site.runner, site.runner, GatewaySettings("lego-tiny", keys), Metrics())) as url:
        there = Site(url, site.runner, site.live)
        ask(there, "ops", num_inference_steps=2).join()
        headers = {"authorization": "Bearer ops"}
        body = {"prompt": long_of("a cube"), "num_inference_steps": 2}
        assert httpx2.post(f"{url}/v1/images/generations", json=body, headers=headers).status_code in (200, 400)
        site.runner.error = RequestError(long_of("No such thing: "))
        ask(there, "ops", num_inference_steps=2).join()
        site.runner.journal.decide("drain", long_of("r"), long_of("because"), site.runner.now())
        page = visit("/", size)
        page.goto(f"{url}/dashboard/requests")
        page.evaluate("""sessionStorage.setItem("lego.key", "ops")""")  # of this site, which has another port
        page.reload()
        rows = page.locator(".request-row:not(.is-head)")
        expect(rows.filter(has_text="shopwww").first).to_be_visible()
        heights = rows.evaluate_all(HEIGHTS)
        assert max(heights) <= 97
        check(page, size[0])
        rows.filter(has_text="request error").or_(rows.first).first.get_by_role("link").click()
        expect(page.locator(".failure .words")).to_contain_text("No such thing")
        expect(page.locator(".waterfall")).to_be_visible()
        check(page, size[0])
        tall = page.locator(".facts dd, .story li, p.failure").evaluate_all(
            "all => all.map((each) => each.clientHeight)"
        )
        assert max(tall) <= TALLEST
        page.goto(f"{url}/dashboard/decisions")
        expect(page.locator(".decisions")).to_contain_text("Becausewww")
        entries = page.locator(".decisions li").evaluate_all(HEIGHTS)
        assert max(entries) <= 2 * TALLEST
        check(page, size[0])


def test_a_text_that_no_address_can_hold_is_refused_in_words_and_not_sent(visit, site) -> None:
    """What is searched for and what a template's tenant is called; nothing gets 414, which would be in the console."""
    fill_history(site)
    page = visit("/dashboard/requests")
    expect(page.locator(".request-row:not(.is-head)").first).to_be_visible()
    page.get_by_label("Words").fill("w" * LONG)
    failure = page.locator("main .failure")
    expect(failure).to_contain_text("A filter may have 200 characters and this one has 32000: ask for fewer words.")
    expect(page.locator(".pill")).to_contain_text("Live")
    page.get_by_label("Words").fill("lego-tiny")
    expect(failure).to_have_count(0)
    expect(page.locator(".request-row:not(.is-head)").first).to_contain_text("lego-tiny")
    page.route("**/v1/admin/templates?*", lengthen)
    page.get_by_role("link", name="Caches").first.click()
    page.get_by_role("button", name="Warm…").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Warm", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="has too long a name")).to_be_visible()


def test_an_address_with_a_hostile_name_says_that_nothing_is_called_so(visit, site, told) -> None:
    """The page lives, whatever somebody typed or sent as a link, also where it is no encoding of a text."""
    told.allow("404")
    page = visit("/dashboard")
    markup = "%3Cimg%20src=x%20onerror=alert(1)%3E"
    for path in ("models/%zz", "requests/%zz", "workflows/a%2Fb", f"models/{markup}", "models/%E2%80%AE%F0%9F%A7%B1"):
        page.goto(f"{site.url}/dashboard/{path}")
        expect(page.locator("main")).to_contain_text("There is no")
        expect(page.locator("main img")).to_have_count(0)
