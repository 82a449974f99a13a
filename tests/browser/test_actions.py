"""What operators do to requests and replicas: a question that says the effect, one call, its result, what changes."""

import re

import httpx2
import pytest
from playwright.sync_api import expect

LATE_SERIES = """
const [ask, come] = [window.fetch, new Promise((done) => (window.letSeriesCome = done))];
window.fetch = async (path, options) => {
  if (String(path).includes("/v1/admin/series")) await come;
  return ask(path, options);
};
"""


@pytest.mark.parametrize("act", ["Pause", "Cancel"])
def test_an_action_says_its_effect_before_it_is_done(visit, site, running, act: str) -> None:
    """The dialog keeps focus on leaving it be; its result is told, and the list changes."""
    job = running()
    page = visit(f"/dashboard/requests/{job}")
    page.get_by_role("button", name=f"{act}…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
    expect(dialog).to_contain_text("Its image waits between two steps" if act == "Pause" else "409 job_cancelled")
    dialog.get_by_role("button", name=re.compile(f"^{act}")).click()
    if act == "Pause":
        expect(page.get_by_role("status").filter(has_text="is paused")).to_be_visible()
        expect(page.get_by_role("button", name="Resume…")).to_be_visible()
        assert site.runner.asked_to_pause == [(job, True)]
    else:
        expect(page.get_by_role("status").filter(has_text="is cancelled")).to_be_visible()
        assert site.runner.asked_to_cancel == [job]


def test_a_drain_of_a_replica_that_has_gone_meanwhile_tells_the_refusal(visit, site, told) -> None:
    """What the server answers is told, whatever it is."""
    told.allow("404")
    page = visit("/dashboard/models/lego-tiny")
    page.get_by_role("table").get_by_role("row").filter(has_text="c01d").get_by_role("button", name="Drain…").click()
    expect(page.get_by_role("dialog")).to_contain_text("nothing in hand")
    site.runner.backbones.remove("c01d")
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(page.get_by_role("status").filter(has_text="no backbone replica of this id")).to_be_visible()
    assert not any(each.kind == "drain" for each in site.runner.journal.decisions(0))


def test_a_click_is_not_lost_to_a_chart_that_comes_while_the_button_is_down(visit, site) -> None:
    """The place of what is still to come is kept, so nothing moves away from under the pointer."""
    page = visit("/dashboard/caches")
    page.add_init_script(LATE_SERIES)
    page.goto(f"{site.url}/dashboard/models/lego-tiny")
    button = page.get_by_role("button", name="Drain…").first
    button.hover()
    expect(page.locator(".chart canvas")).to_be_visible()
    before = button.bounding_box()
    page.mouse.down()
    with page.expect_response("**/v1/admin/series*"):
        page.evaluate("window.letSeriesCome()")
    expect(page.get_by_label("Latency of its requests").locator("tbody tr")).to_have_count(10)
    assert button.bounding_box() == before
    page.mouse.up()
    expect(page.get_by_role("dialog")).to_contain_text("nothing in hand")


def test_what_a_drained_replica_had_goes_on_and_the_next_one_takes_its_place(visit, site, running) -> None:
    """The question says how much it holds; then it drains, is gone as it was meant to be, and its image is made."""
    job = running(num_inference_steps=60)
    site.runner.stays_at, site.runner.step_s = None, 0.5  # it outlasts all that is looked at
    drained = next(record.replica for record in site.runner.journal.history.live)
    page = visit("/dashboard/models/lego-tiny")
    row = page.get_by_role("table").get_by_role("row").filter(has_text=drained)
    row.get_by_role("button", name="Drain…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
    expect(dialog).to_contain_text("Its 1 image goes on elsewhere from fresh checkpoints, none is lost.")
    dialog.get_by_role("button", name="Drain", exact=True).click()
    expect(page.get_by_role("status").filter(has_text=f"{drained} is drained: 1 call moved.")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row).to_contain_text("draining")
    expect(row.get_by_role("button", name="Drain…")).to_have_count(0)
    expect(page.locator(".replica.is-draining")).to_contain_text(drained)
    expect(page.locator(".replica.is-draining .stud")).to_have_count(0)  # it holds nothing and takes nothing
    assert page.locator(".replica:not(.is-draining, .is-small) .stud").count() == 8
    expect(page.get_by_label("Why it scaled")).to_contain_text(f"Replica {drained} is drained")
    site.runner.stop(drained, "f00d")
    expect(page.get_by_role("button", name="backbone replica f00d")).to_be_visible()
    expect(page.locator(".replica.is-stopped")).to_contain_text(drained)
    expect(page.locator(".replica.is-lost")).to_have_count(0)
    site.runner.step_s = 0.005
    page.goto(f"{site.url}/dashboard/requests/{job}")
    expect(page.get_by_text("✓ answered")).to_be_visible()


@pytest.mark.parametrize("path", ["/dashboard/requests/JOB", "/dashboard/requests"])
def test_a_paused_request_goes_on_when_it_is_resumed(visit, site, running, path: str) -> None:
    """From the step where it stood, after the question; in the list as in the request whole."""
    job = running(num_inference_steps=40)
    httpx2.post(f"{site.url}/v1/admin/jobs/{job}/pause")
    site.runner.stays_at = None
    page = visit(path.replace("JOB", job))
    said = page.locator(".row-said").first
    expect(said).to_contain_text("paused")
    stood = said.inner_text()
    page.wait_for_timeout(300)
    assert said.inner_text() == stood
    if path.endswith("requests"):
        page.locator(".request-row .icon-button").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Resume…").click()
    else:
        page.get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
    expect(dialog).to_contain_text("Its image goes on from step")
    dialog.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="is resumed")).to_be_visible()
    assert site.runner.asked_to_pause == [(job, True), (job, False)]
    page.goto(f"{site.url}/dashboard/requests/{job}")
    expect(page.get_by_text("✓ answered")).to_be_visible()
    expect(page.locator(".is-step")).to_have_count(40)
