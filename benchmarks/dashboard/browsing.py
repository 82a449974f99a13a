"""What the pages cost a browser: bytes, requests, the first paint, frames and memory."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

DESK = {"width": 1280, "height": 800}
LOADED = """() => {
  const files = performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"));
  const own = files.filter((each) => !each.name.includes("/v1/"));
  return {
    bytes: own.reduce((sum, each) => sum + each.encodedBodySize, 0),
    requests: files.length,
    paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN,
  };
}"""
FRAMES = """async (seconds) => {
  const frames = [], tasks = [];
  const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((entry) => entry.duration)));
  observer.observe({ type: "longtask" });
  let last = performance.now();
  const end = last + seconds * 1000;
  await new Promise((done) => {
    const frame = (now) => {
      frames.push(now - last);
      last = now;
      if (now < end) requestAnimationFrame(frame);
      else done();
    };
    requestAnimationFrame(frame);
  });
  observer.disconnect();
  frames.sort((one, other) => one - other);
  return { p95: frames[Math.floor(frames.length * 0.95)], longest: Math.max(0, ...tasks), frames: frames.length };
}"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a page loaded at its start: bytes as they came, requests, and seconds until something was seen."""

    bytes: int
    requests: int
    paint_s: float


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium.  Raises FileNotFoundError."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise FileNotFoundError("these figures need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


def opened(browser: Browser, url: str) -> Page:
    """Open a page in a browser that has nothing of it yet."""
    page = browser.new_context(viewport=DESK).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    page.goto(url)
    return page


def load_of(browser: Browser, url: str, ready: str) -> Load:
    """Return what a page loads until something of it is there."""
    page = opened(browser, url)
    page.locator(ready).first.wait_for()
    page.wait_for_timeout(500)
    found: dict[str, Any] = page.evaluate(LOADED)
    page.context.close()
    return Load(found["bytes"], found["requests"], found["paint"] / 1000)


def frames_of(browser: Browser, url: str, seconds: float) -> tuple[float, float, float]:
    """Return the 95th percentile of frames, the longest task, and the longest of a processor's time, in ms."""
    page = opened(browser, url)
    page.locator(".pill.is-ok").wait_for()
    page.wait_for_timeout(2000)
    found: dict[str, float] = page.evaluate(FRAMES, seconds)
    tasks = tasks_of(page, seconds)
    page.context.close()
    return found["p95"], found["longest"], max(tasks)


def tasks_of(page: Page, seconds: float) -> list[float]:
    """Return the processor time, in ms, of each task of a page: what else the machine does adds nothing to it."""
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
    page.wait_for_timeout(seconds * 1000)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    names = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"}
    return [
        each["tdur"] / 1000
        for each in events
        if each["name"].endswith("RunTask") and "tdur" in each and names[each["pid"], each["tid"]] == "CrRendererMain"
    ]


def heap_of(browser: Browser, url: str, seconds: float) -> float:
    """Return the bytes by which a page's heap grows in so many seconds, once it has been open for a while."""
    page = opened(browser, url)
    page.locator(".pill.is-ok").wait_for()
    page.wait_for_timeout(10_000)
    session = page.context.new_cdp_session(page)
    before = _heap(page, session)
    page.wait_for_timeout(seconds * 1000)
    grown = _heap(page, session) - before
    page.context.close()
    return grown


def _heap(page: Page, session: Any) -> float:
    """Return the least of some looks at the heap: a patch that has just come is garbage of the next moment."""
    looks = []
    for _ in range(8):
        session.send("HeapProfiler.collectGarbage")
        looks.append(float(session.send("Runtime.getHeapUsage")["usedSize"]))
        page.wait_for_timeout(150)
    return min(looks)
