"""What is done with images of the playground: history, dropping them, comparing, and their requests as code."""

import base64
import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.support.gateway.wire import wait_for
from tests.support.ui.playing import PROMPT, generate, run_code

KEPT = """() => new Promise((done) => {
  const request = indexedDB.open("lego_serve", 2);
  request.onsuccess = () => {
    const store = request.result.transaction("images").objectStore("images").count();
    store.onsuccess = () => (request.result.close(), done(store.result));
  };
})"""


def test_history_outlasts_the_page_and_gives_settings_back(visit) -> None:
    """In this browser alone; Clear empties it."""
    page = visit()
    page.get_by_label("Steps", exact=True).fill("12")
    page.get_by_label("Guidance", exact=True).fill("6.5")
    generate(page, PROMPT, seed=41)
    assert wait_for(lambda: page.evaluate(KEPT) == 1)
    page.reload()
    expect(page.locator(".film img")).to_have_count(1)
    page.locator("#field-prompt").fill("something else")
    page.get_by_label("Steps", exact=True).fill("3")
    page.locator(".film button").first.click()
    page.get_by_role("button", name="Reuse").click()
    expect(page.locator("#field-prompt")).to_have_value(PROMPT)
    expect(page.locator("#field-seed")).to_have_value("41")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("12")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("dialog").get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator(".film img")).to_have_count(0)
    assert wait_for(lambda: page.evaluate(KEPT) == 0)
    page.reload()
    expect(page.get_by_text("Your images come here")).to_be_visible()


DROP = """([text, name, type]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_a_dropped_image_gives_its_settings_back(visit) -> None:
    """A PNG of this server carries them; while edits are made it is edited, and what is no image is refused."""
    page = visit()
    generate(page, PROMPT, seed=41)
    page.locator("#field-prompt").fill("something else")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    file = base64.b64encode(download.value.path().read_bytes()).decode()
    page.evaluate(DROP, [file, "a.png", "image/png"])
    expect(page.locator("#field-prompt")).to_have_value(PROMPT)
    expect(page.locator("#field-seed")).to_have_value("41")
    page.evaluate(DROP, ["AAAA", "notes.txt", "text/plain"])
    expect(page.locator(".send .refusal")).to_contain_text("Only PNG, JPEG and WebP")
    page.get_by_role("button", name="Edit", exact=True).click()
    page.evaluate(DROP, ["AAAA", "notes.txt", "text/plain"])
    expect(page.locator("#refusal-image")).to_contain_text("Only PNG, JPEG and WebP")
    page.evaluate(DROP, [file, "a.png", "image/png"])
    expect(page.locator(".painter img")).to_be_visible()
    expect(page.locator(".refusal")).to_have_count(0)
    expect(page.get_by_role("button", name="Edit", exact=True)).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("language", ["curl", "Python", "CLI"])
def test_the_code_makes_the_same_image(visit, tmp_path, language: str) -> None:
    """Run by a shell or by Python as it stands, whatever the prompt holds."""
    page = visit()
    generate(page, PROMPT, seed=11)
    page.get_by_role("button", name=language, exact=True).click()
    made = run_code(page.locator(".code").inner_text(), language, tmp_path)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    if language == "CLI":  # which does not ask that the file carries its request
        assert Image.open(made).tobytes() == Image.open(download.value.path()).tobytes()
    else:
        assert made.read_bytes() == download.value.path().read_bytes()


def test_two_images_are_compared_with_what_differs(visit) -> None:
    """The slider is moved by keys and by hand; only settings that differ are listed."""
    page = visit()
    generate(page, "a red circle", seed=5)
    generate(page, "a blue square", seed=6)
    page.get_by_role("button", name="Compare").click()
    slider = page.get_by_role("slider", name="How much of the first image")
    for key in ("Home", "ArrowRight", "Shift+ArrowRight"):
        slider.press(key)
    expect(slider).to_have_attribute("aria-valuenow", "12")
    box = page.locator(".is-compared").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 9)
    expect(slider).to_have_attribute("aria-valuenow", "75")
    cut = page.locator(".is-compared .over").evaluate("image => getComputedStyle(image).clipPath")
    assert re.fullmatch(r"inset\(0(px)? 2[456](\.\d+)?% 0(px)? 0(px)?\)", cut), cut
    expect(page.locator(".differences tbody th")).to_have_text(["prompt", "seed"])
