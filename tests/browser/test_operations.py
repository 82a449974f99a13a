"""What operators do and see in a browser: pins, templates, several gateways, slow streams, many tabs, keys alone."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn
from playwright.sync_api import Page, expect

from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.ui import alerts, recorder
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.wire import wait_for
from tests.support.ui.lively import LivelyRunner
from tests.support.ui.sites import HIDE, Site, ask, fill_history

# Where the focus is, as the place of its element in the document, and whether a ring is seen around it.
FOCUS = """() => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  const seen = element.closest(".file-button") ?? element;
  const ring = [element, seen].some((each) => getComputedStyle(each).outlineStyle !== "none");
  const place = [...document.querySelectorAll("*")].indexOf(element);
  return { place, ring, name: element.outerHTML.slice(0, 90), inside: box.bottom > 0 && box.top < innerHeight };
}"""
# The places of all that can be worked with.
REACHABLE = """() => {
  const all = [...document.querySelectorAll("*")];
  const wanted = "a[href], button:not(:disabled), input, select, textarea, summary, [tabindex='0']";
  return all.map((element, place) => [element, place]).filter(([element]) =>
    element.matches(wanted) && element.checkVisibility({ visibilityProperty: true }) && !element.matches(".skip")
  ).map(([, place]) => place);
}"""


def walk(page: Page) -> tuple[list[int], list[str]]:
    """Press Tab until the focus leaves the page; return the places it was at, and what was wrong on the way."""
    places: list[int] = []
    wrong: list[str] = []
    page.evaluate("document.activeElement?.blur(), scrollTo(0, 0)")
    for _ in range(250):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at is None or (places and at["place"] == places[0]):
            return places, wrong
        places.append(at["place"])
        if not at["ring"]:
            wrong.append(f"no ring: {at['name']}")
        if not at["inside"]:
            wrong.append(f"out of sight: {at['name']}")
    return places, [*wrong, "the focus never leaves the page"]


PAGES = (
    "/", "/dashboard", "/dashboard/requests", "/dashboard/requests/JOB", "/dashboard/models/lego-tiny",
    "/dashboard/workflows", "/dashboard/workflows/lego-tiny-edit-lora", "/dashboard/caches", "/dashboard/decisions",
)  # fmt: skip


def test_each_page_is_walked_by_keys_alone(visit, site) -> None:
    """Everything that can be worked with is reached, in the order in which it is read, and the focus is seen."""
    job = fill_history(site)
    page = visit("/")
    for path in PAGES:
        if path != "/":
            page.goto(site.url + path.replace("JOB", job))
            expect(page.locator(".pill")).to_contain_text("Live")
            expect(page.locator(".shape")).to_have_count(0)
            page.keyboard.press("h")  # nothing changes while it is walked through
            expect(page.locator(".pill")).to_contain_text("held since")
        else:
            page.wait_for_load_state("networkidle")
        wanted = set(page.evaluate(REACHABLE))
        places, wrong = walk(page)
        assert wrong == [], path
        assert wanted - set(places) == set(), path
        assert places == sorted(places), path


def test_a_node_is_pinned_and_says_why_it_scaled(visit, site) -> None:
    """What is wanted stands beside what is there; the bounds are checked before they are sent."""
    page = visit("/dashboard/models/lego-tiny")
    page.get_by_role("button", name="Pin the replicas of backbone…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
    dialog.get_by_label("At least").fill("5")
    dialog.get_by_role("button", name="Pin", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("the first not above the second")
    dialog.get_by_label("At least").fill("3")
    dialog.get_by_label("At most").fill("3")
    dialog.get_by_role("button", name="Pin", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="is pinned to 3 replicas")).to_be_visible()
    assert site.runner.pins == [("lego-tiny.backbone", ReplicaBounds(3, 3))]
    expect(page.locator(".node-name").first).to_contain_text("target 3 · 2 up · pinned")
    expect(page.locator(".replica.is-starting")).to_have_count(1)
    expect(page.get_by_label("Why it scaled")).to_contain_text("lego-tiny.backbone 2 → 3 replicas")
    page.get_by_role("button", name="Pin the replicas of backbone…").click()
    page.get_by_role("dialog").get_by_role("button", name="Unpin").click()
    expect(page.get_by_role("status").filter(has_text="The configuration of")).to_be_visible()
    assert site.runner.pins[-1] == ("lego-tiny.backbone", None)


def test_templates_are_warmed_and_let_go_of(visit, site) -> None:
    """After a dialog that says what it costs; each is called once."""
    fill_history(site)
    page = visit("/dashboard/caches")
    row = page.get_by_role("row").filter(has_text="shop-window")
    expect(row.get_by_role("img").or_(row.locator("img"))).to_be_visible()
    before = len(site.runner.jobs)
    row.get_by_role("button", name="Warm…").click()
    page.get_by_role("dialog").get_by_role("button", name="Warm", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="is being warmed")).to_be_visible()
    assert wait_for(lambda: len(site.runner.jobs) == before + 1)
    row.get_by_role("button", name="Let go…").click()
    expect(page.get_by_role("dialog")).to_contain_text("It stays registered")
    page.get_by_role("dialog").get_by_role("button", name="Let go", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="have let go of")).to_be_visible()
    page.goto(f"{site.url}/dashboard/decisions")
    expect(page.locator(".decisions")).to_contain_text("Activations of template shop-window of default let go")


def test_a_waterfall_adds_up(visit, site) -> None:
    """Bars lie where the words say, the critical path ends with the whole, and a cell is a step."""
    ask(site, num_inference_steps=24).join()
    [record] = site.runner.journal.history.ended()
    page = visit(f"/dashboard/requests/{record.id}")
    expect(page.locator(".is-step")).to_have_count(24)
    bars = page.evaluate(
        """() => [...document.querySelectorAll(".waterfall tr.is-critical")].map((row) => {
          const line = row.querySelector(".critical-line").getBoundingClientRect();
          const whole = document.querySelector(".whole-line").getBoundingClientRect();
          return [line.left - whole.left, line.right - whole.left, whole.width];
        })"""
    )
    whole = httpx2.get(f"{site.url}/v1/admin/requests/{record.id}").json()
    spans = [span for span in whole["spans"] if span["node"] in whole["critical"]]
    for (left, right, width), span in zip(bars, spans, strict=True):
        assert abs(left / width * whole["total_s"] - span["from_s"]) < 0.005
        assert abs(right / width * whole["total_s"] - span["to_s"]) < 0.02  # two pixels at the least
    assert abs(spans[-1]["to_s"] - whole["total_s"]) < 0.005


@contextmanager
def beside(folder: Path, runner: LivelyRunner) -> Iterator[Callable[[], None]]:
    """A gateway on a socket in the folder; yields what kills it."""
    own = folder / "b.sock"
    app = create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics(), Peers(folder, own))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(own))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert wait_for(lambda: server.started)

    def kill() -> None:
        server.force_exit = server.should_exit = True
        thread.join()
        own.unlink(missing_ok=True)

    yield kill
    if thread.is_alive():
        kill()


def test_one_page_shows_two_gateways_and_says_that_one_is_gone(visit, tmp_path, monkeypatch, told) -> None:
    """Counts add up; what the gone one had stays to be seen, with a banner, and the page lives."""
    told.allow("ERR_INCOMPLETE")  # the server ends with the stream open
    monkeypatch.setattr(alerts, "GONE_AFTER_S", 2.0)
    runners = [LivelyRunner(0.02), LivelyRunner(0.02)]
    monkeypatch.setattr(recorder.os, "getpid", lambda: 2)
    with beside(tmp_path, runners[1]) as kill:
        monkeypatch.setattr(recorder.os, "getpid", lambda: 1)
        peers = Peers(tmp_path, tmp_path / "a.sock")
        live = Live(create_app(runners[0], runners[0], GatewaySettings("lego-tiny"), Metrics(), peers))
        with live as url, httpx2.Client(transport=httpx2.HTTPTransport(uds=str(tmp_path / "b.sock"))) as client:
            ask(Site(url, runners[0], live), num_inference_steps=2).join()
            body = {"prompt": "a", "num_inference_steps": 2}
            client.post("http://gateway/v1/images/generations", json=body, timeout=30)
            page = visit("/")
            page.goto(f"{url}/dashboard/requests")
            expect(page.locator(".table-foot")).to_have_text("2 requests")
            expect(page.locator(".nav footer")).to_contain_text("2 gateways")
            runners[1].journal.decide("drain", "b7f2", "a test asked", runners[1].now())
            page.goto(f"{url}/dashboard")
            expect(page.locator(".decisions")).to_contain_text("Replica b7f2 is drained")
            kill()
            expect(page.locator(".alerts")).to_contain_text("does not answer")
            expect(page.locator(".alerts")).to_contain_text("its part of the series is a gap")
            expect(page.locator(".pill")).to_contain_text("Live")


@pytest.mark.long
def test_a_slow_line_shows_the_last_state_and_how_old_it_is(visit, site) -> None:
    """Two kilobytes a second; what lies between is skipped, so that it comes to an end."""
    page = visit("/dashboard/requests?q=none")
    expect(page.locator(".pill")).to_contain_text("Live")
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 2048, "uploadThroughput": 20_000}
    network.send("Network.emulateNetworkConditions", slow)
    ask(site, num_inference_steps=60).join()
    for number in range(12):
        site.runner.journal.decide("drain", f"r{number:03}", "a test asked", site.runner.now())
    page.get_by_role("link", name="Decisions").click()
    expect(page.locator(".decisions")).to_contain_text("Replica r011 is drained", timeout=60_000)


def test_the_seventh_tab_loads_too(visit, site) -> None:
    """Browsers open six connections to a server; tabs that nobody sees hold none."""
    first = visit("/dashboard")
    expect(first.locator(".pill")).to_contain_text("Live")
    for _ in range(6):
        before = first.context.pages[-1]
        before.evaluate(HIDE, True)
        page = first.context.new_page()
        page.goto(f"{site.url}/dashboard")
        expect(page.locator(".pill")).to_contain_text("Live")


def test_while_the_server_starts_it_says_which_nodes_answer(visit, site) -> None:
    """The pages are there before the models are."""
    site.runner.is_ready = False
    page = visit("/dashboard")
    expect(page.locator(".alerts")).to_contain_text(re.compile(r"4 of 4 nodes answer|\d of \d nodes answer"))
    expect(page.locator(".nav footer")).to_contain_text("starting")
