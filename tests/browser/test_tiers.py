"""Tiers in the playground: where a model has them they are chosen, sent, kept, shown as code, and refused in place."""

import json
import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.gateway.settings import GatewaySettings
from tests.support.ui.playing import PROMPT, generate


def run(tier: str, evaluations: int) -> TierRun:
    """For 20 steps at any size."""
    return TierRun(tier, "euler", 20, (1, 2**20), Grid("euler", shifted_sigmas(evaluations, 3.0, 0.001)))


@pytest.fixture
def settings(settings: GatewaySettings, request: pytest.FixtureRequest) -> GatewaySettings:
    """A model that was tuned, but where a test says that it was not."""
    tuned = TierBook((run("high", 10), run("fast", 5)))
    return settings if "untuned" in request.node.name else replace(settings, tiers={"lego-tiny": tuned})


def test_a_tier_is_chosen_sent_written_as_code_and_kept(visit, sent) -> None:
    """With what it does of the steps; it comes back with the page, and with an image's settings."""
    page = visit()
    bodies = sent(page)
    tier = page.get_by_label("Tier")
    expect(tier.locator("option")).to_have_text(
        ["the model's", "exact: all steps", "high: 10 of 20 steps", "fast: 5 of 20 steps"]
    )
    tier.select_option("fast")
    for language, words in (("curl", '"tier": "fast"'), ("Python", '"tier": "fast"'), ("CLI", "--tier fast")):
        page.get_by_role("button", name=language, exact=True).click()
        expect(page.locator(".code")).to_contain_text(words)
    generate(page, PROMPT, seed=5)
    assert json.loads(bodies[0])["tier"] == "fast"
    page.reload()
    expect(tier).to_have_value("fast")
    tier.select_option("")
    generate(page, PROMPT, seed=6)
    assert "tier" not in json.loads(bodies[1])
    page.locator(".film button").nth(1).click()
    page.get_by_role("button", name="Reuse").click()
    expect(tier).to_have_value("fast")


def test_a_tier_that_is_not_tuned_for_these_steps_is_refused_at_its_field(visit, told) -> None:
    """What it is for stands in the list before; what is chosen anew is no longer refused."""
    told.allow("400")
    page = visit()
    page.get_by_label("Steps", exact=True).fill("12")
    tier = page.get_by_label("Tier")
    expect(tier.locator("option").nth(2)).to_have_text("high: for 20 steps of euler")
    tier.select_option("high")
    page.locator("#field-prompt").fill(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#refusal-tier")).to_contain_text("not tuned for 12 steps of euler")
    tier.select_option("exact")
    expect(page.locator("#refusal-tier")).to_have_count(0)


def test_an_untuned_model_has_no_field_and_is_sent_no_tier(visit, sent) -> None:
    """Whatever the form remembers of another."""
    page = visit()
    page.evaluate("""localStorage.setItem("lego.form", JSON.stringify({ tier: "fast" }))""")
    page.reload()
    expect(page.get_by_text(re.compile("workflows? ready"))).to_be_attached()
    expect(page.locator("#field-tier")).to_have_count(0)
    bodies = sent(page)
    generate(page)
    assert "tier" not in json.loads(bodies[0])
