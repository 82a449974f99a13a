"""The dashboard as nothing has come yet, as something failed, as it is held still or not seen, and as rows move."""

import re
import time

import httpx2
from playwright.sync_api import Page, Route, expect

from tests.support.gateway.wire import wait_for
from tests.support.ui.sites import HIDE, ask

ERROR = {
    "message": "The store does not answer.",
    "code": "job_store_unavailable",
    "param": None,
    "type": "server_error",
}
LISTS = re.compile(r"/v1/admin/(requests|decisions|errors|caches|templates|adapters|series)\b")


def fail(route: Route) -> None:
    """Answer with an error of the server's."""
    route.fulfill(status=500, json={"error": ERROR}, headers={"x-request-id": "req_7"})


def asked_in(page: Page, seconds: float) -> list[str]:
    """The lists that a page asks for in a time."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url) if LISTS.search(request.url) else None)
    page.wait_for_timeout(seconds * 1000)
    return urls


def test_until_the_first_word_there_are_shapes_and_then_what_failed(visit, told) -> None:
    """Shapes wait for 0.3 s; a failure has its sentence, its code and its request, and is tried again."""
    told.allow("500")
    page = visit("/")
    page.route("**/v1/admin/events*", lambda route: None)
    page.goto(page.url + "dashboard")
    expect(page.locator(".shape").first).to_be_visible()
    delay = page.locator(".shape").first.evaluate("shape => getComputedStyle(shape).animationDelay")
    assert delay == "0.3s"
    page.unroute("**/v1/admin/events*")
    page.route("**/v1/admin/events*", fail)
    page.reload()
    failure = page.locator("main .failure")
    for words in ("The store does not answer.", "job_store_unavailable", "req_7"):
        expect(failure).to_contain_text(words)
    expect(page.locator(".pill")).to_contain_text("Cut off")
    expect(failure.get_by_role("button", name="Try again")).to_have_count(1)
    page.unroute("**/v1/admin/events*")
    page.evaluate("() => document.querySelector('main .failure button')?.click()")  # it may have tried by itself
    expect(page.locator(".pill")).to_contain_text("Live")
    expect(page.get_by_text("Nothing runs now.")).to_be_visible()


def test_a_list_that_fails_says_so_and_the_rest_lives(visit, told) -> None:
    """It is not shown as empty."""
    told.allow("500")
    page = visit("/dashboard")
    for name in ("templates", "caches", "decisions", "errors"):
        page.route(f"**/v1/admin/{name}*", fail)
    page.get_by_role("link", name="Caches").first.click()
    expect(page.locator(".failure")).to_have_count(2)
    expect(page.get_by_text("None is registered.")).to_have_count(0)
    page.unroute("**/v1/admin/templates*")
    page.locator(".failure").last.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("None is registered.")).to_be_visible()
    page.get_by_role("link", name="Decisions").first.click()
    expect(page.locator(".failure")).to_have_count(2)
    expect(page.get_by_text("No request has ended with an error")).to_have_count(0)
    expect(page.locator(".pill")).to_contain_text("Live")


def test_lists_rest_while_nobody_sees_them_or_they_are_held_still(visit, site) -> None:
    """Nothing is asked for then."""
    page = visit("/dashboard/requests")
    expect(page.get_by_text("No request yet.")).to_be_visible()
    page.wait_for_event("request", lambda request: bool(LISTS.search(request.url)))
    page.evaluate(HIDE, True)
    page.wait_for_timeout(300)
    assert asked_in(page, 3.5) == []
    page.evaluate(HIDE, False)
    page.get_by_role("link", name="Decisions").first.click()
    expect(page.locator("#decided-title")).to_be_visible()
    page.keyboard.press("h")
    expect(page.locator(".pill")).to_contain_text("held since")
    page.wait_for_timeout(300)
    assert asked_in(page, 3.5) == []


def test_a_quiet_server_is_live_and_says_little_aloud(visit, site) -> None:
    """Of an hour's points one comes each ten seconds: pings come sooner. What counts seconds is not read aloud."""
    page = visit("/dashboard")
    page.get_by_role("button", name="1 hour").click()
    expect(page.locator(".pill")).to_contain_text("Live")
    page.evaluate(
        """() => {
          globalThis.said = [];
          const note = (changes) => said.push(...changes.filter(({ target }) => {
            const near = target.nodeType === 1 ? target : target.parentElement;
            return near.closest("[aria-live], [role=status]")?.getAttribute("aria-live") !== "off" &&
              near.closest("[role=status]");
          }));
          new MutationObserver(note).observe(document.body, { childList: true, characterData: true, subtree: true });
        }"""
    )
    site.runner.lose(site.runner.backbones[0])
    expect(page.locator(".alerts")).to_contain_text("was lost")
    for _ in range(3):  # of several tries: where this process is held up, nobody hears the server
        page.evaluate("said.length = 0")
        seen = set()
        until = time.monotonic() + 7
        while time.monotonic() < until:
            seen.add(page.locator(".pill").inner_text().split()[0])
            page.wait_for_timeout(200)
        if seen == {"Live"}:
            break
    assert seen == {"Live"}
    assert page.evaluate("said.length") <= 1


def test_rows_stay_under_the_pointer_and_move_with_the_stream(visit, site) -> None:
    """One that ends keeps its place until the pointer leaves; x asks for one of the list too."""
    site.runner.step_s = 0.5
    page = visit("/dashboard/requests")
    short = ask(site, num_inference_steps=40)
    assert wait_for(lambda: len(site.runner.journal.history.live) == 1)
    ask(site, num_inference_steps=40)
    assert wait_for(lambda: len(site.runner.journal.history.live) == 2)
    httpx2.post(f"{site.url}/v1/admin/jobs/{site.runner.journal.history.live[1].id}/pause", timeout=60)
    rows = page.locator(".request-row:not(.is-head)")
    expect(rows).to_have_count(2)
    names = rows.locator("a").all_inner_texts()
    rows.first.hover()
    site.runner.step_s = 0.002
    short.join()
    expect(rows.first).to_have_class(re.compile("is-ended"))
    assert rows.locator("a").all_inner_texts() == names
    page.mouse.move(5, 5)
    expect(rows.locator("a")).to_have_text(names[::-1])  # what is in flight comes first
    page.goto(f"{site.url}/dashboard/requests?state=paused")
    expect(rows).to_have_count(1)
    page.keyboard.press("j")
    page.keyboard.press("x")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("409 job_cancelled")
    dialog.get_by_role("button", name="Cancel the request").click()
    expect(page.get_by_role("status").filter(has_text="is cancelled")).to_be_visible()
