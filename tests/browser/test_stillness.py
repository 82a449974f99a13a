"""What is shown keeps its place when what was asked for comes, as the browser's own Layout Instability API counts it.

Answers are held back until a page shows its first content and 0.3 s have passed; the stream of events is not, for it is
that content. A window is as tall as its page, so that what would be moved below the fold counts too, and each value is
what it would be in a window of the usual height: the share of the window that was moved, times how far, in windows.
"""

import pytest
from playwright.sync_api import Page, expect

from tests.support.ui.sites import DESK, PHONE, fill_history

PAGES = (
    "/", "/dashboard", "/dashboard/requests", "/dashboard/requests/JOB", "/dashboard/models",
    "/dashboard/models/lego-tiny", "/dashboard/workflows", "/dashboard/workflows/lego-tiny-edit-lora",
    "/dashboard/caches", "/dashboard/decisions",
)  # fmt: skip
MOST = 0.01  # Chrome's own tools call a page stable below 0.1
# Left out is the head alone, which live data moves: its pill says how long ago the last word came, and that it is late.
WATCH = """
const [ask, come] = [window.fetch, new Promise((done) => (window.letAnswersCome = done))];
window.asked = 0;
window.shifts = [];
window.fetch = async (path, options) => {
  if (String(path).includes("/v1/admin/events")) return ask(path, options);
  window.asked += 1;
  try {
    const answer = await ask(path, options);
    await come;
    return answer;
  } finally {
    window.asked -= 1;
  }
};
const elementOf = (node) => node instanceof Element ? node : node?.parentElement;
new PerformanceObserver((list) => {
  for (const { value, startTime, sources } of list.getEntries()) {
    const moved = sources.map(({ node }) => elementOf(node)).filter((element) => !element?.closest(".head"));
    const said = moved.map((element) => `${element?.className} ${element?.textContent.trim().slice(0, 40)}`);
    if (moved.length > 0) window.shifts.push([startTime, value, said]);
  }
}).observe({ type: "layout-shift", buffered: true });
"""
# Lets the answers come, and waits until nothing has been asked for in 10 frames.
LET_COME = """async () => {
  window.letAnswersCome();
  for (let quiet = 0; quiet < 10; quiet = window.asked === 0 ? quiet + 1 : 0) {
    await new Promise((done) => requestAnimationFrame(done));
  }
}"""


def moved(page: Page, since: float, scale: float) -> tuple[float, list[str]]:
    """Return how much has been moved since a time, and what."""
    found = [(value, said) for at, value, said in page.evaluate("window.shifts") if at >= since]
    return scale * sum(value for value, _ in found), [each for _, said in found for each in said]


@pytest.mark.parametrize(("usual", "tall"), [(DESK, 2400), (PHONE, 3400)])
def test_nothing_that_is_shown_moves_when_an_answer_comes(visit, site, usual: tuple[int, int], tall: int) -> None:
    """On every page, on a desk and on a phone; and it would be seen if something did."""
    job = fill_history(site)
    width, height = usual
    scale = tall / height * max(width, tall) / max(width, height)
    page = visit("/", (width, tall))
    page.add_init_script(WATCH)
    restless = {}
    for path in PAGES:
        page.goto(site.url + path.replace("JOB", job))
        page.locator("form.form" if path == "/" else ".pill.is-ok").wait_for()
        page.wait_for_timeout(300)
        since = page.evaluate("performance.now()")
        page.evaluate(LET_COME)
        expect(page.locator(".shape")).to_have_count(0)
        value, what = moved(page, since, scale)
        if value >= MOST:
            restless[path] = value, what
    assert not restless
    since = page.evaluate("performance.now()")
    page.evaluate("document.querySelector('main').style.marginTop = '300px'")
    page.evaluate(LET_COME)
    assert moved(page, since, scale)[0] > MOST
