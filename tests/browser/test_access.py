"""What those need who work by keys, want nothing to move, or meet names that were made to do harm."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

HOSTILE = ("<img src=x onerror=alert(1)>", "\u202eright to left \u05d0\u05d1", "\U0001f9f1" * 40, "w" * 32_000)
SECONDS = """() => document.getAnimations().map((each) => Number(each.effect.getComputedTiming().duration) / 1000)"""


def answer_with(page: Page, path: str, change: Any) -> None:
    """Have the server's answers of a path changed on their way."""

    def pass_on(route: Route) -> None:
        answer = route.fetch()
        content = answer.json()
        change(content)
        route.fulfill(response=answer, body=json.dumps(content))

    page.route(path, pass_on)


@pytest.mark.parametrize("leave", ["Escape", "Leave it", "Close"])
def test_the_focus_goes_back_to_where_a_dialog_was_opened(visit, leave: str) -> None:
    """However it is left, so that whoever works by keys goes on from there."""
    page = visit("/dashboard/models/lego-tiny")
    for name in ("Drain…", "Pin the replicas of backbone…"):
        opener = page.get_by_role("button", name=name).first
        opener.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
        if leave == "Escape":
            page.keyboard.press("Escape")
        else:
            dialog.get_by_role("button", name=leave, exact=True).press("Enter")
        expect(dialog).to_have_count(0)
        expect(opener).to_be_focused()


def test_nothing_is_animated_for_whom_the_system_says_so(visit, running) -> None:
    """What pulses for others while a request runs stands still."""
    page = visit(f"/dashboard/requests/{running()}")
    expect(page.locator(".part.is-open")).not_to_have_count(0)
    assert all(seconds <= 0.001 for seconds in page.evaluate(SECONDS))
    page.emulate_media(reduced_motion="no-preference")
    assert any(seconds > 1 for seconds in page.evaluate(SECONDS))


@pytest.mark.parametrize("name", HOSTILE, ids=["markup", "rtl", "emoji", "long"])
def test_adapters_of_hostile_names_are_texts(visit, name: str) -> None:
    """In the playground, where one is found and added, and in the dashboard's table; no page gets wider."""
    page = visit()
    answer_with(page, "**/v1/models", lambda found: [each["lego"].update(adapters=[name]) for each in found["data"]])
    answer_with(page, "**/v1/admin/adapters*", lambda found: [each.update(id=name) for each in found["data"]])
    page.reload()
    finder = page.get_by_role("combobox", name="Add an adapter")
    finder.press("ArrowDown")
    assert page.get_by_role("listbox").get_by_role("option").text_content().strip() == name
    finder.press("Enter")
    expect(page.locator(".use")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert name in page.locator(".use").text_content()
    page.goto(page.url + "dashboard/caches")
    table = page.get_by_role("region", name="Table of adapters")
    assert table.locator("tbody th").first.text_content().strip() == name
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert page.locator("img[src=x]").count() == 0
