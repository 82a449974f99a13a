"""The pages on a real server: what they make is what the API makes, and a replica that dies is seen as it does."""

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.e2e.servers import Server, backbones, wait_for_two
from tests.support.ui.shots import keep

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.ray,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="no Chromium: apt-get install chromium"
    ),
]
GENERATIONS = "/v1/images/generations"
PROMPT = "a large red circle on the left, a small yellow triangle on the right, blue background"
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for this file: while it is there, an event loop runs, and others may not."""
    assert CHROMIUM is not None, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, crashes: Server) -> Iterator[Page]:
    """The playground, once the models are known."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(crashes.url)
    expect(page.get_by_text(re.compile("workflows? ready"))).to_be_visible()
    yield page
    context.close()


def generate(page: Page, prompt: str, seed: int, steps: int = 20) -> None:
    """Make an image and wait for it."""
    page.locator("#field-prompt").fill(prompt)
    page.locator("#field-seed").fill(str(seed))
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.keyboard.press("Control+Enter")


def downloaded(page: Page) -> bytes:
    """The image that is shown, as its file."""
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    return download.value.path().read_bytes()


def pixels(file: bytes) -> np.ndarray:
    """An image's pixels."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_an_image_is_the_apis_and_its_code_makes_it_again(page, crashes, tmp_path) -> None:
    """A preview comes before it; with its seed the API gives the same pixels, and so does the code, through openai."""
    generate(page, PROMPT, seed=3, steps=60)
    expect(page.get_by_text("preview, step")).to_be_visible(timeout=PATIENCE_MS)
    keep(page, "playground", full=False)
    expect(page.get_by_text(re.compile("Done in"))).to_be_visible(timeout=PATIENCE_MS)
    file = downloaded(page)
    body = {"model": "lego-tiny", "prompt": PROMPT, "seed": 3, "num_inference_steps": 60}
    answer = httpx2.post(crashes.url + GENERATIONS, json=body, timeout=60).json()
    assert (pixels(base64.b64decode(answer["data"][0]["b64_json"])) == pixels(file)).all()
    page.get_by_role("button", name="Python", exact=True).click()
    code = page.locator(".code").inner_text()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (pixels((tmp_path / "image1.png").read_bytes()) == pixels(file)).all()


def test_what_is_not_marked_comes_back_pixel_by_pixel(page) -> None:
    """An image of the film, marked on its left half."""
    generate(page, PROMPT, seed=3)
    expect(page.get_by_text(re.compile("Done in"))).to_be_visible(timeout=PATIENCE_MS)
    before = downloaded(page)
    page.get_by_role("button", name="Edit this image").click()
    page.locator("#field-prompt").fill("a large yellow cross on the left, blue background")
    page.get_by_role("button", name="Rectangle").click()
    box = page.locator(".painter canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"], steps=5)
    page.mouse.up()
    keep(page, "edit", full=False)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Before and after")).to_be_visible(timeout=PATIENCE_MS)
    keep(page, "compare", full=False)
    after = downloaded(page)
    right = int(0.6 * 128)
    assert (pixels(after)[:, right:] == pixels(before)[:, right:]).all()
    assert (pixels(after) != pixels(before)).any()


def test_a_replica_that_dies_is_seen_and_its_images_arrive(page, crashes) -> None:
    """A lost brick within ten seconds, requests that go on, a decision with its reason; nothing fails."""
    wait_for_two(crashes)
    answers: list[httpx2.Response] = []

    def ask(seed: int) -> None:
        body = {"prompt": PROMPT, "seed": seed, "num_inference_steps": 100, "n": 4}
        answers.append(httpx2.post(crashes.url + GENERATIONS, json=body, timeout=120))

    page.goto(f"{crashes.url}/dashboard")
    expect(page.locator(".pill")).to_contain_text("Live")
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    expect(page.locator(".request-table")).to_contain_text(re.compile(r"step [1-9]\d* / 100"))
    # Bricks of replicas that were lost before may still be there.
    alive = [each["id"] for each in httpx2.get(f"{crashes.url}/v1/admin/replicas", timeout=30).json()["data"]]
    victim = backbones(crashes)[0]
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    expect(page.locator(", ".join(f'.replica.is-lost[title^="{name}"]' for name in alive))).to_be_visible()
    assert time.monotonic() - killed < 10
    tails = "|".join(name[-4:] for name in alive)
    expect(page.locator(".decisions")).to_contain_text(re.compile(f"Replica ({tails}) is gone"))
    expect(page.locator(".alerts")).to_contain_text("was lost")
    keep(page, "dashboard", full=False)
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    page.goto(f"{crashes.url}/dashboard/requests?q=resumed")
    expect(page.locator(".request-row").nth(1)).to_contain_text("resumed")
    page.locator(".request-row a").first.click()
    expect(page.locator(".waterfall")).to_contain_text("goes on elsewhere")
    keep(page, "request")
    wait_for_two(crashes)


@pytest.mark.long
def test_a_pinned_node_has_as_many_replicas_as_an_operator_says(page, crashes) -> None:
    """Serve makes them, the dashboard says why; undone, the configuration holds again."""
    path = f"{crashes.url}/v1/admin/nodes/lego-tiny.vae/replicas"
    page.goto(f"{crashes.url}/dashboard/models/lego-tiny")
    vae = page.locator(".node").filter(has_text="vae")
    expect(vae).not_to_contain_text("target")
    assert httpx2.put(path, json={"min": 2, "max": 2}).status_code == 202
    expect(vae).to_contain_text("target 2", timeout=PATIENCE_MS)
    expect(page.get_by_label("Why it scaled")).to_contain_text("lego-tiny.vae 1 → 2 replicas")
    expect(vae.locator(".replica:not(.is-starting)")).to_have_count(2, timeout=PATIENCE_MS)
    assert httpx2.delete(path).status_code == 202
    expect(page.get_by_label("Why it scaled")).to_contain_text("lego-tiny.vae 2 → 1 replicas", timeout=PATIENCE_MS)
