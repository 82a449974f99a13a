"""Edits in the playground: a mask painted by mouse, keys and touch, as the gateway receives it."""

import io
import re
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.ui.lively import png
from tests.support.ui.playing import run_code
from tests.support.ui.sites import PHONE

DONE = re.compile("Before and after")


def form_of(body: bytes) -> dict[str, bytes]:
    """The parts of a form by their names."""
    boundary = body.split(b"\r\n", 1)[0][2:].decode()
    whole = message_from_bytes(f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n".encode() + body)
    parts = whole.get_payload()
    assert isinstance(parts, list)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[misc]
        for part in parts
    }


def alpha_of(body: bytes) -> np.ndarray:
    """The transparency of a form's mask."""
    return np.asarray(Image.open(io.BytesIO(form_of(body)["mask"])).convert("RGBA"))[..., 3]


def open_image(page: Page, tmp_path: Path, width: int = 128, height: int = 96) -> None:
    """Open a file to be edited."""
    file = tmp_path / "image.png"
    file.write_bytes(png(width, height))
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Open a file").set_input_files(file)
    expect(page.locator(".painter canvas")).to_be_visible()
    page.locator("#field-prompt").fill("a blue square")


def stroke(page: Page, *points: tuple[float, float]) -> None:
    """Draw from point to point, each a share of the image."""
    box = page.locator(".painter canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


def marked(page: Page) -> str:
    """What the page says is marked, once it has drawn what was done before."""
    page.evaluate(DRAWN)
    return page.locator(".tools .badge").inner_text()


def expect_marked(page: Page, words: str) -> None:
    """The page says that so much is marked."""
    expect(page.locator(".tools .badge")).to_have_text(words)


def send(page: Page) -> None:
    """Send the edit and wait for it."""
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(DONE)).to_be_visible()


def test_what_is_painted_is_what_the_gateway_gets(visit, sent, tmp_path) -> None:
    """Fully marked or not at all, of the image's size; pixels outside come back equal."""
    page = visit()
    bodies = sent(page)
    open_image(page, tmp_path)
    stroke(page, (0.2, 0.3), (0.6, 0.4))
    share = float(marked(page).split()[0]) / 100
    send(page)
    alpha = alpha_of(bodies[0])
    assert alpha.shape == (96, 128)
    assert set(np.unique(alpha)) == {0, 255}
    assert abs((alpha == 0).mean() - share) < 0.01
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    after = np.asarray(Image.open(download.value.path()))
    before = np.asarray(Image.open(tmp_path / "image.png"))
    far = np.asarray(Image.fromarray(alpha).resize((128, 96))) == 255
    far[:60] = False  # what feather may reach
    assert (after[far] == before[far]).all()


def test_strokes_are_undone_redone_erased_inverted_and_cleared(visit, tmp_path) -> None:
    """By buttons and by keys; what is done last is undone first."""
    page = visit()
    open_image(page, tmp_path)
    stroke(page, (0.2, 0.5), (0.5, 0.5))
    one = marked(page)
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    two = marked(page)
    page.get_by_role("button", name="Undo").click()
    expect_marked(page, one)
    page.keyboard.press("Control+y")
    expect_marked(page, two)
    page.keyboard.press("e")
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    expect_marked(page, one)
    page.keyboard.press("i")
    inverted = float(marked(page).split()[0])
    assert abs(inverted + float(one.split()[0]) - 100) <= 1
    page.get_by_role("button", name="Clear", exact=True).first.click()
    expect_marked(page, "nothing marked")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    expect_marked(page, one)


def test_a_rectangle_marks_whole_pixels(visit, sent, tmp_path) -> None:
    """From corner to corner."""
    page = visit()
    bodies = sent(page)
    open_image(page, tmp_path)
    page.get_by_role("button", name="Rectangle").click()
    stroke(page, (0.25, 0.25), (0.75, 0.5))
    send(page)
    rows, columns = np.nonzero(alpha_of(bodies[0]) == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 47, 32, 95)


def test_a_mask_is_painted_by_keys_alone(visit, sent, tmp_path) -> None:
    """Arrows move the brush, Space paints, Shift and Space erases."""
    page = visit()
    bodies = sent(page)
    open_image(page, tmp_path)
    page.locator(".painter canvas").focus()
    for key in ("[", "[", "Space", "Shift+ArrowRight", "Space", "Shift+Space", "Shift+ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(key)
    send(page)
    rows, columns = np.nonzero(alpha_of(bodies[0]) == 0)
    assert 40 < rows.mean() < 48
    assert abs(columns.mean() - 63.5) < 1.5


def test_a_mask_is_painted_by_touch(visit, sent, tmp_path) -> None:
    """The page does not scroll meanwhile."""
    page = visit(size=PHONE, has_touch=True)
    bodies = sent(page)
    open_image(page, tmp_path)
    box = page.locator(".painter canvas").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    points = [(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.5) for share in (0.2, 0.4, 0.6, 0.8)]
    session.send(
        "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": points[0][0], "y": points[0][1]}]}
    )
    for x, y in points[1:]:
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator(".tools .badge")).to_contain_text("% marked")
    page.get_by_role("button", name="Edit the marked part").click()
    expect(page.get_by_text(DONE)).to_be_visible()
    columns = np.nonzero((alpha_of(bodies[0]) == 0).any(axis=0))[0]
    assert columns.max() - columns.min() > 70


def test_without_a_mask_the_whole_image_is_edited(visit, sent, tmp_path) -> None:
    """The page says so; no mask and none of its fields are sent."""
    page = visit()
    bodies = sent(page)
    open_image(page, tmp_path)
    expect(page.get_by_text("nothing is marked: all of it may change")).to_be_visible()
    page.get_by_role("button", name="Edit the whole image").click()
    expect(page.get_by_text(DONE)).to_be_visible()
    assert set(form_of(bodies[0])) & {"mask", "caption", "mask_feather", "reuse"} == set()


def test_files_that_cannot_be_edited_are_refused_at_once(visit, tmp_path) -> None:
    """Other types, and what is larger than the server takes; nothing is sent."""
    page = visit()
    page.get_by_role("button", name="Edit", exact=True).click()
    wrong, large = tmp_path / "notes.txt", tmp_path / "large.png"
    wrong.write_text("no image")
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2_000_001))
    for file, words in ((wrong, "Only PNG, JPEG and WebP"), (large, "this server takes 2000000")):
        page.get_by_label("Open a file").set_input_files(file)
        expect(page.locator("#refusal-image")).to_contain_text(words)


def test_a_template_is_kept_and_edited(visit, sent, tmp_path, site) -> None:
    """Its edits name it instead of sending an image."""
    page = visit()
    open_image(page, tmp_path)
    page.get_by_role("button", name="Keep as template").click()
    expect(page.get_by_role("status").filter(has_text="Kept as template")).to_be_visible()
    bodies = sent(page)
    stroke(page, (0.3, 0.5), (0.6, 0.5))
    send(page)
    form = form_of(bodies[0])
    assert form["template"].startswith(b"tmpl_")
    assert "image" not in form
    page.reload()
    page.get_by_label("Template").select_option(index=1)
    expect(page.locator(".painter img")).to_be_visible()


def test_the_mask_stays_while_the_prompt_changes(visit, tmp_path) -> None:
    """After an edit as well."""
    page = visit()
    open_image(page, tmp_path)
    stroke(page, (0.2, 0.5), (0.5, 0.5))
    before = marked(page)
    send(page)
    page.locator("#field-prompt").fill("something else")
    page.get_by_role("button", name="Compare").click()
    expect_marked(page, before)


def test_a_refusal_of_the_servers_stands_at_the_file(visit, tmp_path, told) -> None:
    """As that of a body that is too large with all that goes along."""
    told.allow("413", "ERR_")
    page = visit()
    open_image(page, tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (810, 812, 3), np.uint8)
    file = tmp_path / "noise.png"
    Image.fromarray(noise).save(file)
    assert 1_900_000 < file.stat().st_size < 2_000_000
    page.get_by_label("Open a file").set_input_files(file)
    page.locator("#field-prompt").fill("w" * 60_000)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".refusal").first).to_contain_text("larger than 2000000 bytes")


def test_a_large_image_is_edited_or_refused_with_a_sentence(visit, tmp_path) -> None:
    """Of sixteen million pixels: nothing hangs."""
    page = visit()
    open_image(page, tmp_path, 4096, 4096)
    stroke(page, (0.3, 0.5), (0.6, 0.5))
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(DONE).or_(page.locator(".refusal").first)).to_be_visible()


def test_a_mask_is_saved_opened_and_comes_back_with_reuse(visit, sent, tmp_path) -> None:
    """As it was painted; Reuse gives the image, its mask and every setting of an edit back."""
    page = visit()
    bodies = sent(page)
    open_image(page, tmp_path)
    page.locator("#field-size").select_option("192x192")
    page.locator("#field-seed").fill("9")
    stroke(page, (0.2, 0.3), (0.6, 0.4))
    before = marked(page)
    page.locator("#field-caption").fill("a picture")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save it").click()
    assert download.value.suggested_filename == "mask.png"
    send(page)
    assert (np.asarray(Image.open(download.value.path()).convert("RGBA"))[..., 3] == alpha_of(bodies[0])).all()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Clear", exact=True).first.click()
    expect_marked(page, "nothing marked")
    page.get_by_label("Open a mask").set_input_files(download.value.path())
    expect(page.locator(".tools .badge")).to_have_text(before)
    page.get_by_role("button", name="Clear", exact=True).first.click()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Reuse").click()
    expect(page.locator(".tools .badge")).to_have_text(before)
    expect(page.locator("#field-size")).to_have_value("192x192")
    expect(page.locator("#field-caption")).to_have_value("a picture")
    send(page)
    first, again = form_of(bodies[0]), form_of(bodies[1])
    assert {name for name in first | again if first.get(name) != again.get(name)} <= {"image"}


@pytest.mark.parametrize("language", ["curl", "Python", "CLI"])
def test_the_code_of_an_edit_makes_the_same_image(visit, tmp_path, language: str) -> None:
    """With the image that was opened and the mask that was saved."""
    page = visit()
    open_image(page, tmp_path)
    stroke(page, (0.2, 0.3), (0.6, 0.4))
    page.locator("#field-seed").fill("3")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save it").click()
    download.value.save_as(tmp_path / "mask.png")
    send(page)
    page.get_by_role("button", name=language, exact=True).click()
    made = run_code(page.locator(".code").inner_text(), language, tmp_path)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert (np.asarray(Image.open(made)) == np.asarray(Image.open(download.value.path()))).all()
