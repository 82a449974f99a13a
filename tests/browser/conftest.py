"""A real Chromium on a real gateway, whose runner draws and takes its time."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.wire import wait_for
from tests.support.ui.lively import LivelyRunner
from tests.support.ui.sites import DESK, Site, ask

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
PATIENCE_MS = 60_000  # on a busy machine anything may take long; that says nothing of what is shown
expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests; without Chromium they are left out, and fail where CI runs them."""
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in own:
        item.add_marker("browser")
        if CHROMIUM is None and os.environ.get("CI") != "true":
            item.add_marker(pytest.mark.skip(reason="no Chromium: apt-get install chromium"))


@dataclass
class Told:
    """What the browser complained of: the console, the policy, requests that failed."""

    lines: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Keep a line, unless the test expects it."""
        self.lines.append(line)

    def allow(self, *words: str) -> None:
        """Expect lines with these words."""
        self.allowed += words

    @property
    def complaints(self) -> list[str]:
        """The lines that nobody expects."""
        return [line for line in self.lines if not any(words in line for words in self.allowed)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file: while it is there, an event loop runs, and others may not."""
    assert CHROMIUM is not None, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    """No keys; ControlNets and templates."""
    return GatewaySettings(
        "lego-tiny",
        max_body_bytes=2_000_000,
        controlnets={"lego-tiny": frozenset({"outline", "depth"})},
        templates=TemplateSettings(tmp_path / "templates", 9, 10_000_000, {"lego-tiny": 10_000_000}),
    )


@pytest.fixture
def runner() -> LivelyRunner:
    """The runner behind the gateway."""
    return LivelyRunner(step_s=0.004)


@pytest.fixture
def site(settings: GatewaySettings, runner: LivelyRunner) -> Iterator[Site]:
    """A gateway that listens."""
    live = Live(create_app(runner, runner, settings, Metrics()))
    runner.clock = live.now
    with live as url:
        yield Site(url, runner, live)


@pytest.fixture
def running(site) -> Callable[..., str]:
    """Begins a long request, which stays where it is after some steps; returns its id."""

    def begin(**body: object) -> str:
        site.runner.step_s, site.runner.stays_at = 0.05, 20
        known = {record.id for record in site.runner.journal.history.live}
        ask(site, **{"num_inference_steps": 100, **body})
        assert wait_for(lambda: any(r.id not in known and r.step > 1 for r in site.runner.journal.history.live))
        return next(record.id for record in site.runner.journal.history.live if record.id not in known)

    return begin


@pytest.fixture
def told() -> Told:
    """What the browser complains of."""
    return Told()


@pytest.fixture
def visit(browser: Browser, site: Site, told: Told) -> Iterator[Callable[..., Page]]:
    """Opens pages of the site; at the end nothing may have been complained of."""
    contexts = []

    def visit(path: str = "/", size: tuple[int, int] = DESK, theme: str = "light", **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,  # type: ignore[arg-type]
            reduced_motion="reduce",
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda line: told.note(f"{line.type}: {line.text}") if line.type != "info" else None)
        page.on("pageerror", lambda error: told.note(f"error: {error}"))
        page.goto(site.url + path)
        if path == "/":
            page.get_by_text(re.compile("workflows? ready")).wait_for(state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not told.complaints


@pytest.fixture
def sent(site: Site) -> Callable[[Page], list[bytes]]:
    """The bodies of requests for images that a page sends."""

    def watch(page: Page) -> list[bytes]:
        bodies: list[bytes] = []

        def note(route: Route) -> None:
            bodies.append(route.request.post_data_buffer or b"")
            route.continue_()

        page.route("**/v1/images/*", note)
        return bodies

    return watch
