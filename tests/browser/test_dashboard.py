"""The dashboard in a browser: what it shows as things happen, what operators do, and how it says that it is cut off."""

import json
import re
import time
from hashlib import sha256

import pytest
from playwright.sync_api import Page, expect

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.wire import wait_for
from tests.support.ui.sites import HIDE, Site, ask


def test_a_request_is_seen_from_its_step_to_its_end(visit, site, running) -> None:
    """In the overview, as a stud on its replica, and whole with a cell for each step."""
    job = running(num_inference_steps=90)
    replica = next(record.replica for record in site.runner.journal.history.live)
    page = visit("/dashboard")
    expect(page.locator(".pill")).to_contain_text("Live")
    row = page.get_by_role("row").filter(has_text=re.compile(r"step \d+ / 90"))
    expect(row).to_be_visible()
    replica = next(record.replica for record in site.runner.journal.history.live)
    expect(page.get_by_role("button", name=f"backbone replica {replica}")).to_have_accessible_name(
        re.compile("1 running")
    )
    row.get_by_role("link").click()
    site.runner.stays_at = None
    expect(page).to_have_url(f"{site.url}/dashboard/requests/{job}")
    expect(page.get_by_text("✓ answered")).to_be_visible()
    expect(page.locator(".is-step")).to_have_count(90)
    expect(page.locator("tr.is-critical")).to_have_count(3)
    expect(page.get_by_text("Prompts and images are not kept.")).to_be_visible()


def test_a_brick_has_a_stud_for_each_image_that_its_step_takes(visit, site, running) -> None:
    """As its replica reports it; one that has no steps is smooth, and its sheet has the number in words."""
    running()
    running()
    page = visit("/dashboard/models/lego-tiny")
    for node, count in (("backbone", 8), ("text_encoder", 4), ("vae", 1), ("adapters", 0)):
        for brick in page.get_by_role("button", name=f"{node} replica").all():
            expect(brick.locator(".stud")).to_have_count(count)
    expect(page.locator(".stud.is-on")).to_have_count(3)  # two images, and one that is decoded
    brick = page.get_by_role("button", name="backbone replica").first
    expect(brick).to_have_accessible_name(re.compile("running of at most 8|idle, room for 8"))
    brick.click()
    expect(page.get_by_role("dialog")).to_contain_text(re.compile(r"images in the step\d of at most 8"))


def test_a_lost_replica_turns_its_brick_and_its_images_go_on(visit, site, running) -> None:
    """A banner, a lost brick, a decision with its reason, and a request that says it was resumed."""
    running()
    site.runner.step_s = 0.5  # it outlasts all that is looked at
    page = visit("/dashboard")
    expect(page.locator(".replica")).not_to_have_count(0)
    lost = next(record.replica for record in site.runner.journal.history.live)
    assert lost is not None
    site.runner.lose(lost)
    site.runner.stays_at = None
    expect(page.locator(".replica.is-lost")).to_contain_text(lost)
    expect(page.get_by_role("status").filter(has_text="was lost")).to_contain_text("goes on elsewhere")
    expect(page.locator(".decisions")).to_contain_text(f"Replica {lost} is gone")
    expect(page.locator(".request-table")).to_contain_text("resumed")


def test_filters_are_in_the_address(visit, site) -> None:
    """So that a view can be sent to somebody; the list follows."""
    for adapters in ([], [{"name": "a"}]):
        ask(site, num_inference_steps=2, lora=adapters).join()
    page = visit("/dashboard/requests")
    expect(page.locator(".table-foot")).to_have_text("2 requests")
    page.get_by_label("Workflow").select_option("lego-tiny-lora")
    expect(page.locator(".table-foot")).to_have_text("1 request")
    assert "workflow=lego-tiny-lora" in page.url
    page.reload()
    expect(page.locator(".table-foot")).to_have_text("1 request")
    page.get_by_label("Words").fill("nothing like it")
    expect(page.get_by_text("No request is like that.")).to_be_visible()
    page.get_by_role("link", name="Show all.").click()
    expect(page.locator(".table-foot")).to_have_text("2 requests")


def test_a_thousand_rows_are_a_window(visit, site) -> None:
    """Only those that are seen exist; the others come as they are scrolled to."""
    rows = [_row(index) for index in range(1000)]
    page = visit("/dashboard/requests?q=none")
    page.route("**/v1/admin/requests?*", lambda route: _answer(route, rows))
    page.get_by_label("Words").fill("")
    expect(page.get_by_role("table", name="Requests")).to_have_attribute("aria-rowcount", "1000")
    assert page.locator(".request-row").count() < 40
    window = page.get_by_role("rowgroup", name="Rows")
    window.evaluate("box => box.scrollTo(0, 500 * 57)")
    expect(page.get_by_role("link", name="row500", exact=True)).to_be_visible()
    assert page.locator(".request-row").count() < 40


def _row(index: int) -> dict[str, object]:
    return {
        "id": f"job_row{index}", "state": "ended", "outcome": "ok", "workflow": "lego-tiny", "tenant": "shop",
        "created": 1000.0, "age_s": 1.0, "waited_s": 0.1, "step": 20, "steps": 20, "eta_s": None, "replica": "c01d",
        "size": "128x128", "n": 1, "target_s": None, "flags": [], "message": "", "gateway": "1",
    }  # fmt: skip


def _answer(route, rows: list[dict[str, object]]) -> None:
    query = dict(part.split("=") for part in route.request.url.split("?")[1].split("&") if "=" in part)
    start = int(query.get("cursor", 0))
    end = start + int(query.get("limit", 200))
    page = {
        "object": "list",
        "data": rows[start:end],
        "total": len(rows),
        "next": str(end) if end < len(rows) else None,
    }
    route.fulfill(status=200, content_type="application/json", body=json.dumps(page))


def test_keys_lead_everywhere(visit, site, running) -> None:
    """Letters go to pages, slash finds, h holds still, and nothing of that in a field."""
    running()
    page = visit("/dashboard")
    expect(page.locator(".pill")).to_contain_text("Live")
    for letter, path in (("r", "requests"), ("m", "models"), ("w", "workflows"), ("c", "caches"), ("d", "decisions")):
        page.keyboard.press("g")
        page.keyboard.press(letter)
        expect(page.get_by_role("heading", level=1)).to_have_text(path.capitalize())
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.locator(".request-row:not(.is-head)")).to_have_count(1)
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("dialog")).to_contain_text("Cancel")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".request-row a").first).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.press("h")
    expect(page.get_by_role("searchbox", name="Find a request")).to_have_value("h")
    page.locator("h1").click()
    page.keyboard.press("h")
    expect(page.locator(".pill")).to_contain_text("held since")


def test_a_cut_stream_keeps_what_is_shown_and_comes_back(visit, site, told) -> None:
    """It says for how long nothing was heard; when the server is there again it goes on by itself."""
    told.allow("ERR_", "fetch")
    ask(site, num_inference_steps=2).join()
    page = visit("/dashboard")
    expect(page.locator(".pill")).to_contain_text("Live")
    context = page.context
    context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('offline'))")
    again = Live(create_app(site.runner, site.runner, GatewaySettings("lego-tiny"), Metrics()), port=site.live.port)
    site.live.server.should_exit = True
    site.live.thread.join()
    expect(page.locator(".pill")).to_contain_text("last heard")
    expect(page.locator(".tile").first).to_be_visible()
    context.set_offline(False)
    with again:
        expect(page.locator(".pill")).to_contain_text("Live")


def test_a_hidden_page_listens_to_nothing(visit, site) -> None:
    """Its stream is closed within a second, and opened when it is seen again: in one of several tries at the least.

    A browser that is held up is late.
    """
    page = visit("/dashboard")
    expect(page.locator(".pill")).to_contain_text("Live")
    asked = []
    loads = site.runner.loads

    async def counted() -> object:
        asked.append(time.monotonic())
        return await loads()

    site.runner.loads = counted
    is_quiet = False
    for _ in range(5):
        page.evaluate(HIDE, True)
        time.sleep(1.2)
        before = len(asked)
        time.sleep(1.5)
        is_quiet = is_quiet or len(asked) == before
        page.evaluate(HIDE, False)
        assert wait_for(lambda before=before: len(asked) > before)
        if is_quiet:
            break
    assert is_quiet


@pytest.fixture
def keyed(site) -> GatewaySettings:
    """Keys of an operator and of a user."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, name == "ops") for name in ("ops", "shop"))
    return GatewaySettings("lego-tiny", keys)


def test_keys_are_asked_for_and_kept_for_the_tab(visit, site, keyed, told) -> None:
    """A wrong one is said to be wrong; a user sees their requests and no actions; the key is in no address."""
    told.allow("401", "403", "ERR_")
    with Live(create_app(site.runner, site.runner, keyed, Metrics())) as url:
        closed = Site(url, site.runner, site.live)
        page = visit("/")
        page.goto(f"{url}/dashboard")
        enter_key(page, "wrong")
        expect(page.get_by_role("dialog")).to_contain_text("This key is not known here.")
        enter_key(page, "shop")
        expect(page.get_by_role("heading", name="This needs an admin key.")).to_be_visible()
        ask(closed, "shop", num_inference_steps=2).join()
        ask(closed, "ops", num_inference_steps=2).join()
        page.get_by_role("link", name="your own requests").click()
        expect(page.locator(".table-foot")).to_have_text("1 request")
        page.locator(".request-row .icon-button").first.click()
        expect(page.get_by_role("dialog").get_by_role("button")).to_have_count(1)  # that closes it
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Key set").first.click()
        enter_key(page, "ops")
        expect(page.locator(".pill")).to_contain_text("Live")
        kept = page.evaluate("JSON.stringify(sessionStorage)")
        shared = page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        assert "ops" in kept
        assert "ops" not in shared


def enter_key(page: Page, key: str) -> None:
    """Enter a key where it is asked for."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key").fill(key)
    dialog.get_by_role("button", name="Use this key").click()


def test_hostile_names_are_texts(visit, site, told) -> None:
    """Markup, right-to-left marks and long words change neither the page nor its width."""
    name = "<img src=x onerror=alert(1)>\u202eevil " + "w" * 300
    row = _row(1) | {"workflow": name, "tenant": name, "flags": ["<b>late</b>"], "message": name}
    page = visit("/dashboard/requests?q=none")
    page.route("**/v1/admin/requests?*", lambda route: _answer(route, [row]))
    page.get_by_label("Words").fill("")
    expect(page.locator(".request-row").nth(1)).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator(".request-row img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
