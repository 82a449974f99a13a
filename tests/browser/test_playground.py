"""Generating in the playground: previews, refusals, cancelling, adapters and ControlNets."""

import base64
import io
import json
import re

import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.support.gateway.wire import wait_for
from tests.support.ui.lively import png
from tests.support.ui.playing import MADE, generate
from tests.support.ui.sites import PHONE


def test_a_image_is_made_with_previews_and_told_with_its_times(visit, site, sent) -> None:
    """Steps rise, a preview comes before the image, and the image has the size and the seed asked for."""
    site.runner.stays_at = 15  # until it has been seen
    page = visit()
    bodies = sent(page)
    page.locator("#field-prompt").fill("a red circle")
    page.locator("#field-seed").fill("5")
    page.get_by_role("button", name="Generate Ctrl").click()
    expect(page.get_by_text("preview, step")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile(r"1\d"))
    site.runner.stays_at = None
    expect(page.get_by_text(MADE)).to_be_visible()
    size = page.locator(".board img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [128, 128]
    assert json.loads(bodies[0]) == {
        "model": "lego-tiny", "prompt": "a red circle", "seed": 5, "embed_request": True,
        "stream": True, "partial_images": 3, "stream_progress": True,
    }  # fmt: skip
    expect(page.locator(".times tbody th")).to_have_text(["waits", "prompts", "steps", "decode", "whole"])
    expect(page.locator(".times .is-nodes")).to_have_text(["cond 12 ms · negative 4 ms"])


def test_several_images_are_laid_out_and_one_is_opened(visit, site) -> None:
    """Each with its own seed."""
    page = visit()
    page.locator("#field-n").fill("4")
    page.locator("#field-prompt").fill("a red circle")
    page.locator("#field-seed").fill("7")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".lanes .tag")).to_have_text(["seed 7", "seed 8", "seed 9", "seed 10"])
    page.get_by_role("button", name="Seed 9").click()
    expect(page.get_by_text("seed 9")).to_be_visible()


@pytest.mark.parametrize("way", ["button", "Escape", "leave"])
def test_a_cancelled_request_is_cancelled_in_the_server(visit, site, way: str, told) -> None:
    """By the button, by Escape, and where the page is left; no image stays and the form goes on."""
    site.runner.stays_at = 30
    page = visit()
    page.locator("#field-prompt").fill("a red circle")
    page.get_by_label("Steps", exact=True).fill("60")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(re.compile(r"Step \d+ of 60"))).to_be_visible()
    if way == "button":
        page.get_by_role("button", name="Cancel").click()
    elif way == "Escape":
        page.keyboard.press("Escape")
    else:
        page.goto("about:blank")
    assert wait_for(lambda: site.runner.cancelled == [site.runner.jobs[0].id])
    if way != "leave":
        expect(page.get_by_role("button", name="Generate Ctrl")).to_be_enabled()
        assert page.locator(".film img").count() == 0


def test_refusals_stand_at_the_field_they_are_about(visit, told) -> None:
    """The server's and the page's own; what is changed is no longer refused."""
    told.allow("400")
    page = visit()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#refusal-prompt")).to_have_text("Say what the image shall show.")
    page.locator("#field-prompt").fill("a red circle")
    expect(page.locator("#refusal-prompt")).to_have_count(0)
    page.locator("#field-seed").fill("99999999999")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#refusal-seed")).to_contain_text("4294967295")
    assert page.locator("#field-seed").get_attribute("aria-invalid") == "true"
    page.locator("#field-seed").fill("3")
    page.get_by_label("Size").select_option("own")
    page.get_by_label("Size").fill("100x77")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#refusal-size")).to_contain_text("multiples of 16")


def test_a_refusal_of_no_field_of_the_page_stands_at_the_button(visit, told) -> None:
    """Nothing that the server says is lost; one that is about a folded field unfolds it."""
    told.allow("400")
    page = visit()
    finder = page.get_by_role("combobox", name="Add an adapter")
    finder.press("ArrowDown")
    finder.press("Enter")
    page.locator("#field-prompt").fill("a red circle")
    param = ""

    def refuse(route: Route) -> None:
        error = {"message": f"`{param}` is refused.", "param": param, "code": "out_of_range", "type": "x"}
        route.fulfill(status=400, json={"error": error})

    page.route("**/v1/images/generations", refuse)
    for param, place in (("background", ".send"), ("lora[0].end", ".use .more"), ("deadline_ms", "form > div > .more")):
        page.keyboard.press("Control+Enter")
        expect(page.locator(f"{place} .refusal")).to_have_text(f"`{param}` is refused.")
        expect(page.locator(".refusal")).to_have_count(1)
        expect(page.locator(".refusal")).to_be_in_viewport()


def test_adapters_are_found_added_and_sent(visit, sent) -> None:
    """By letters and keys; removed ones are gone."""
    page = visit()
    bodies = sent(page)
    finder = page.get_by_role("combobox", name="Add an adapter")
    finder.press_sequentially("B")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_text(["b"])
    finder.press("Enter")
    finder.press("ArrowDown")
    finder.press("Enter")
    page.get_by_role("button", name="Remove a", exact=True).click()
    page.get_by_label("Scale", exact=True).fill("0.8")
    generate(page)
    assert json.loads(bodies[0])["lora"] == [{"name": "b", "scale": 0.8}]


def test_a_drawn_map_is_sent_white_on_black(visit, sent) -> None:
    """As a PNG of the image's size."""
    page = visit()
    bodies = sent(page)
    page.get_by_role("combobox", name="Add a ControlNet").press("ArrowDown")
    page.get_by_role("option", name="outline").click()
    board = page.locator(".map-board canvas")
    board.focus()
    for key in ("Space", "ArrowRight", "ArrowRight", "Space"):
        board.press(key)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Clear").click()
    expect(dialog.get_by_role("button", name="Clear")).to_be_disabled()
    page.keyboard.press("Control+z")
    expect(dialog.get_by_role("button", name="Clear")).to_be_enabled()
    for key, button in (("e", "Eraser"), ("b", "Brush")):
        page.keyboard.press(key)  # the keys that the tools' titles name, wherever the focus is
        expect(dialog.get_by_role("button", name=button)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Use this map").click()
    expect(page.locator(".map-row img")).to_be_visible()
    generate(page)
    [use] = json.loads(bodies[0])["controlnet"]
    image = Image.open(io.BytesIO(base64.b64decode(use["image"])))
    assert (use["name"], image.size) == ("outline", (128, 128))
    assert sorted(colour for _, colour in image.convert("RGB").getcolors() or []) == [(0, 0, 0), (255, 255, 255)]


def test_on_a_phone_nothing_is_wider_than_the_screen(visit) -> None:
    """The image comes first, and the button stays in sight."""
    page = visit(size=PHONE, has_touch=True)
    generate(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    expect(page.get_by_role("button", name="Generate Ctrl")).to_be_in_viewport()
    for button in page.locator(".tools button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 34


def test_no_more_than_four_adapters_and_an_unknown_one_is_refused_at_its_place(visit, told) -> None:
    """The fifth cannot be added; what the server says of one stands in its own box."""
    told.allow("404")
    page = visit()
    more = ["a", "b", "c", "d", "e"]

    def with_more(route: Route) -> None:
        answer = route.fetch()
        models = answer.json()
        for card in models["data"]:
            card["lego"]["adapters"] = more
        route.fulfill(response=answer, json=models)

    page.route("**/v1/models", with_more)
    page.reload()
    finder = page.get_by_role("combobox", name="Add an adapter")
    for _ in range(4):
        finder.press("ArrowDown")
        finder.press("Enter")
    expect(finder).to_have_count(0)
    expect(page.get_by_text("No more than 4 at once")).to_be_visible()
    error = {"message": "There is no adapter `c`.", "param": "lora[2].name", "code": "adapter_not_found", "type": "x"}
    page.route("**/v1/images/generations", lambda route: route.fulfill(status=404, json={"error": error}))
    page.locator("#field-prompt").fill("a red circle")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".use").nth(2)).to_contain_text("There is no adapter `c`.")
    page.get_by_role("button", name="Remove c", exact=True).click()
    expect(page.get_by_text("There is no adapter `c`.")).to_have_count(0)


def test_a_map_that_is_opened_is_sent_as_it_is(visit, sent, tmp_path) -> None:
    """In base64, with its weight and until when it counts."""
    page = visit()
    bodies = sent(page)
    file = tmp_path / "map.png"
    file.write_bytes(png(128, 128))
    page.get_by_role("combobox", name="Add a ControlNet").press("ArrowDown")
    page.get_by_role("option", name="outline").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.locator(".map-row").get_by_label("Open").set_input_files(file)
    expect(page.locator(".map-row img")).to_be_visible()
    page.get_by_label("Weight", exact=True).fill("0.5")
    generate(page)
    [use] = json.loads(bodies[0])["controlnet"]
    assert base64.b64decode(use["image"]) == file.read_bytes()
    assert (use["name"], use["weight"]) == ("outline", 0.5)


@pytest.mark.parametrize(
    "prompt",
    ["<img src=x onerror=alert(1)>", "\u202eright to left \u05d0\u05d1", "\U0001f9f1" * 40, "w" * 32_000],
    ids=["markup", "rtl", "emoji", "long"],
)
def test_hostile_prompts_are_texts(visit, prompt: str, told) -> None:
    """Shown as they are, no wider than the page, and run nothing."""
    told.allow("400")  # too long is refused, at its field
    page = visit()
    page.locator("#field-prompt").fill(prompt)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(MADE).or_(page.locator("#refusal-prompt"))).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert page.locator("img[src=x]").count() == 0
