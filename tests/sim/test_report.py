"""Numbers and charts of runs."""

from html.parser import HTMLParser

from lego_serve.sim.charts import Point, bars, lines
from lego_serve.sim.page import Section, page, table
from lego_serve.sim.policies.names import policy_named
from lego_serve.sim.report import inputs, summary
from lego_serve.sim.run import simulate
from lego_serve.sim.run_page import run_page
from lego_serve.sim.statistics import highest, mean_of, quantile, share_of
from tests.support.cluster.settings import artifact, poisson_requests


class Checker(HTMLParser):
    """Counts what is open, and collects addresses that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag opens, if it has content."""
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag without content."""

    def handle_endtag(self, tag: str) -> None:
        """It closes what was opened last."""
        assert self.open.pop() == tag


def test_a_report_needs_nothing_besides() -> None:
    """Its tags close in order, nothing is fetched, names are escaped, and each chart is there."""
    setting = artifact()
    requests = poisson_requests(setting, 5.0, 60, 1)
    outcome = simulate(setting, requests, policy_named("lego", setting), window_s=20.0)
    rows = [{"rate": rate, **summary(setting, requests, outcome)} for rate in (4.0, 5.0)]
    html = run_page("a <trace>", setting, requests, {"lego": rows}, {"lego": outcome}, 20.0)
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.fetched == []
    assert "a &lt;trace&gt;" in html
    assert html.count("<svg") == 5


def test_a_summary_says_what_a_reader_needs_to_judge() -> None:
    """Shares with their interval, classes, work, latency, GPU seconds, reasons and the bound, of hashed inputs."""
    setting = artifact()
    requests = poisson_requests(setting, 8.0, 100, 2)
    found = summary(setting, requests, simulate(setting, requests, policy_named("lego", setting)))
    low, high = found["attainment_95"]
    assert low <= found["attainment"] <= high <= 1.0
    assert found["attainment"] <= found["bound"]["best batch"]
    assert set(found["by_class"]) == {"A", "B", "C"}
    assert sum(found["statuses"].values()) == 100
    assert found["gpu_s"]["busy"] <= found["gpu_s"]["span"]
    assert found["reasons"]
    assert inputs(setting, requests) == inputs(artifact(), poisson_requests(setting, 8.0, 100, 2))
    assert inputs(setting, requests) != inputs(artifact(4), requests)


def test_intervals_hold_the_mean() -> None:
    """Of means of values and of shares of a sequence; the same seed gives the same ones."""
    estimate = mean_of([1.0, 2.0, 3.0, 4.0])
    assert 1.0 <= estimate.low < estimate.mean == 2.5 < estimate.high <= 4.0
    assert share_of([True] * 90 + [False] * 10) == share_of([True] * 90 + [False] * 10)
    assert share_of([True] * 40).low == 1.0


def test_bisection_finds_the_highest_value_that_is_met() -> None:
    """Up to the tolerance; nothing if the lowest is not met."""
    assert abs(highest(lambda value: value <= 3.3, 0.0, 10.0, 0.01) - 3.3) < 0.01
    assert highest(lambda value: False, 0.0, 10.0, 0.01) == 0.0
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([], 0.5) == 0.0


def test_charts_take_what_there_is() -> None:
    """Nothing of nothing, a point of a point, bands where points have them."""
    assert lines({}, "x", "y") == ""
    assert bars({}, "y") == ""
    assert "polygon" not in lines({"a": [Point(1.0, 2.0)]}, "x", "y")
    assert "polygon" in lines({"a": [Point(1.0, 2.0, 1.0, 3.0), Point(2.0, 2.0, 1.0, 3.0)]}, "x", "y")
    assert "whisker" in bars({"a": Point(0.0, 2.0, 1.0, 3.0)}, "y")
    assert "<td>&lt;b&gt;</td>" in table(["x"], [["<b>"]])
    assert "Empty" not in page("t", "w", [Section("Empty", "", "")])
