import io
import json
import random
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType

import pytest
from PIL import Image

from loadgen.bursts import run as module
from loadgen.bursts.plan import FIRST
from loadgen.bursts.run import Systems, compare_bursts
from loadgen.client import Reply, Sample
from loadgen.traffic import Arrivals, ImageRequest

KEYS = {"suite", "machine", "versions", "seed", "rate_rps", "slo", "baseline", "lego", "ratio", "quality", "details"}
SIDE_KEYS = {"name", "mean_s", "p50_s", "p95_s", "throughput_rps", "attainment", "max_rate_at_90pct"}


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


class FakeSide:
    """Plays both systems: one image a second with one thread, slower with two, all at once as a server."""

    dtype = "float32"
    ready_s = 1.5

    def __init__(self, log: list[str], name: str) -> None:
        self._log = log
        self._name = name

    def __enter__(self) -> "FakeSide":
        self._log.append(self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.append(f"end {self._name}")

    def burst(self, requests: Sequence[ImageRequest], threads: int) -> list[Sample]:
        return [Sample(0.0, i * threads, (i + 1.0) * threads, Reply(png())) for i in range(len(requests))]

    def run(self, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random) -> list[Sample]:
        return [Sample(0.0, 0.0, 2.0, Reply(png())) for _ in requests]


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
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(module, "pin", lambda cores: list(range(cores)))
    return []


def run(out: Path, log: list[str]) -> dict[str, object]:
    systems = Systems(lambda: FakeSide(log, "baseline"), lambda: FakeSide(log, "server"))
    return compare_bursts(FIRST, systems, out, quick=True, on_line=lambda line: None)


def test_summary_has_every_key(tmp_path: Path, log: list[str]) -> None:
    """The summary written has the agreed keys, and those a burst does not measure are null."""
    found = run(tmp_path, log)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written == json.loads(json.dumps(found))
    assert set(written) == KEYS
    assert set(written["baseline"]) == set(written["lego"]) == SIDE_KEYS
    assert written["rate_rps"] is written["lego"]["max_rate_at_90pct"] is written["ratio"]["max_rate_at_90pct"] is None
    assert written["ratio"]["throughput"] == 4.0
    assert written["details"]["throughput_ratio_of_rounds"] == [4.0, 4.0, 4.0]
    assert written["quality"]["max_difference_255"] == 0


def test_systems_take_turns(tmp_path: Path, log: list[str]) -> None:
    """Each system is started anew for every round, never beside the other."""
    run(tmp_path, log)
    turn = ["baseline", "end baseline", "server", "end server"]
    assert log == ["baseline", "end baseline", *turn * 3]


def test_baseline_runs_at_its_best(tmp_path: Path, log: list[str]) -> None:
    """The baseline is measured with the thread count that the trial found fastest."""
    run(tmp_path, log)
    details = json.loads((tmp_path / "summary.json").read_text())["details"]
    assert details["baseline_threads"] == 1
    assert details["baseline_trial_s"] == {"1": 1.0, "2": 2.0}


def test_report_stands_alone(tmp_path: Path, log: list[str]) -> None:
    """The report shows charts and the images of both systems, and needs no other file."""
    run(tmp_path, log)
    page = Page()
    page.feed((tmp_path / "report.html").read_text())
    assert page.tags.count("svg") == 2
    assert len(page.sources) == 2 * FIRST.arrivals.requests
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "link" not in page.tags
