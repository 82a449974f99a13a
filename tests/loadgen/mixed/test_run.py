import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadgen.mixed import run as module
from loadgen.mixed.plan import MIXED
from loadgen.mixed.run import compare_mixed
from loadgen.server_config import with_backbones
from tests.support.loadgen.simulated import EFFORT, world

KEYS = {"suite", "machine", "versions", "seed", "rate_rps", "slo", "baseline", "lego", "ratio", "quality", "details"}
SIDE_KEYS = {"name", "mean_s", "p50_s", "p95_s", "throughput_rps", "attainment", "max_rate_at_90pct"}
RATIO_KEYS = {"throughput", "mean", "p95", "max_rate_at_90pct"}


class Page(HTMLParser):
    """Collects the tags and what they point at."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run over simulated servers."""
    monkeypatch.setattr(module, "pin", lambda cores: list(range(cores)))
    place = world()
    suite = replace(MIXED, quick=EFFORT)
    found = compare_mixed(suite, place.bench.systems, tmp_path, quick=True, on_line=place.lines.append)
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(found))
    return tmp_path


def test_summary_has_every_key(written: Path) -> None:
    """The summary has exactly the agreed keys, none of them null in this suite."""
    found = json.loads((written / "summary.json").read_text())
    assert set(found) == KEYS
    assert set(found["baseline"]) == set(found["lego"]) == SIDE_KEYS
    assert set(found["ratio"]) == RATIO_KEYS
    assert None not in {**found["baseline"], **found["lego"], **found["ratio"]}.values()
    assert found["slo"] == "5x solo"
    assert found["baseline"]["name"] == "diffusers-monolith"
    assert found["quality"]["max_difference_255"] == 0
    assert 1 < found["quality"]["images_compared"] <= 12


def test_ratios_are_lego_over_baseline(written: Path) -> None:
    """Every ratio is of the medians beside it."""
    found = json.loads((written / "summary.json").read_text())
    keys = {"throughput": "throughput_rps", "mean": "mean_s", "p95": "p95_s", "max_rate_at_90pct": "max_rate_at_90pct"}
    for name, key in keys.items():
        assert found["ratio"][name] == pytest.approx(found["lego"][key] / found["baseline"][key], abs=0.001)


def test_details_tell_how(written: Path) -> None:
    """Layout, objectives, classes, rates tried, failures and the telling of deadlines can be looked up."""
    details = json.loads((written / "summary.json").read_text())["details"]
    assert details["baseline_layout"] == "2 replicas x 1 thread"
    assert set(details["baseline_layout_trial_rps"]) == {"1 replica x 2 threads", "2 replicas x 1 thread"}
    assert details["deadline_ms_sent_to_lego"] is True
    assert len(details["slo_table"]) == 18
    for side in ("baseline", "lego"):
        assert set(details["classes"][side]) == {"small", "middle", "large"}
        assert [len(trace["probes"]) > 1 for trace in details["search"][side]] == [True, True]
        assert set(details["failures"][side]) == {"closed", "search", "common_rate", "answers"}


def test_dropped_jobs_are_failures(written: Path) -> None:
    """Jobs that lego_serve drops at their deadline while its limit is sought appear among the failures."""
    failures = json.loads((written / "summary.json").read_text())["details"]["failures"]
    assert failures["lego"]["search"] > 0
    assert failures["baseline"]["search"] == failures["lego"]["closed"] == 0


def test_report_stands_alone(written: Path) -> None:
    """The report shows three charts, the classes and the images of both systems, and needs no other file."""
    text = (written / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == 3
    assert page.tags.count("polyline") == 2
    assert page.tags.count("table") == 4
    assert "large" in text
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link"} & set(page.tags)


def test_derived_configuration(tmp_path: Path) -> None:
    """Another number of backbones changes nothing else and leaves the original alone."""
    original = tmp_path / "tiny.yaml"
    original.write_text("models: {m: {path: here, nodes: {vae: {cpus: 1}}}}\nworkflows: [m, own.yaml]\n")
    (tmp_path / "own.yaml").write_text("")
    before = original.read_text()
    derived = with_backbones(original, "m", 2, tmp_path / "out").read_text()
    assert original.read_text() == before
    assert "max: 2" in derived
    assert "min: 2" in derived
    assert "cpus: 1" in derived
    assert str(tmp_path / "own.yaml") in derived
    assert "- m\n" in derived
