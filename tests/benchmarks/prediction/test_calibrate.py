"""A calibration sends one shape at a time, and keeps how long it took and the spans of its jobs."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.prediction import calibrate
from benchmarks.prediction.calibrate import Calibration, CalibrationPlan, last_jobs, plan
from benchmarks.prediction.fitting import fit_profile
from benchmarks.prediction.recording import LEGO, MONOLITH, SPAN, Shape, read_recording, write_recording
from benchmarks.prediction.systems.server import SimulatedServer
from loadgen.addons.request import AddonsRequest
from loadgen.client import Reply, Sample
from loadgen.mixed.plan import Layout
from loadgen.traffic import ImageRequest
from tests.support.prediction.profiles import TEXT, lego_group, profile, server_costs, shapes
from tests.support.prediction.worlds import lego, monolith

SMALL = CalibrationPlan(tuple(shapes((4, 8))), alone=2, rounds=1)


class Told:
    """A simulated lego_serve whose jobs are told by the spans that its costs would leave."""

    url = "http://none"

    def __init__(self, inner: SimulatedServer) -> None:
        self._inner, self.ready_s, self.dtype = inner, inner.ready_s, inner.dtype
        self.sent: list[ImageRequest] = []

    def __enter__(self) -> "Told":
        self._inner.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, requests: Any, arrivals: Any, rng: Any, deadline_s: Any = None) -> list[Sample]:
        self.sent += requests
        return self._inner.run(requests, arrivals, rng, deadline_s)

    def jobs(self, url: str, count: int, since_s: float) -> list[dict[str, Any]]:
        each = self.sent[-1]
        shape = Shape(each.width, each.height, each.steps, each.guidance)
        return [dict(job) for job in lego_group(server_costs(), shape, count).jobs]


def test_a_profile_is_fitted_from_what_a_calibration_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of both systems; every shape alone and in company, and no prompt twice."""
    told, made = Told(lego()), Calibration(SMALL, lambda line: None)
    monkeypatch.setattr(calibrate, "last_jobs", told.jobs)
    made.lego(told)
    for layout in (Layout(1, 2), Layout(2, 1)):
        made.baseline(monolith(layout), layout)
    write_recording(tmp_path / "recording.jsonl", made.groups)
    groups = read_recording(tmp_path / "recording.jsonl")
    alone = {group.shape for group in groups if group.system == LEGO and group.outstanding == 1}
    assert alone == set(SMALL.shapes)
    assert len({each.prompt for each in told.sent}) == len(told.sent)
    found, real = fit_profile(groups, 2, "now", TEXT), profile()
    for threads in (1, 2):
        fitted, invented = found.monolith_with(threads), real.monolith_with(threads)
        assert fitted.step.seconds(400, 80_000) == pytest.approx(invented.step.seconds(400, 80_000), rel=0.03)
    assert found.server.step.seconds(400, 80_000) == pytest.approx(real.server.step.seconds(400, 80_000), rel=0.02)
    assert found.fitted_from == ("calibration",)


def test_a_failed_image_ends_the_calibration() -> None:
    """With the answer that came in its place."""

    class Broken:
        ready_s, dtype = 0.0, "none"

        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def run(self, requests: Any, arrivals: Any, rng: Any, deadline_s: Any = None) -> list[Sample]:
            return [Sample(0.0, 0.0, 1.0, Reply(None, "500: broken", 500)) for _ in requests]

    with pytest.raises(ValueError, match=r"made 0 of 2 images of .*500: broken"):
        Calibration(SMALL, lambda line: None).baseline(Broken(), Layout(1, 1))


def test_jobs_are_asked_for_and_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last that ended and are new, in the order of their begin; prompts and stories are left out."""
    span = dict.fromkeys(SPAN, 0) | {"notes": ["long"]}
    begun = {"b": 102.0, "a": 101.0, "old": 100.0}
    rest = {"total_s": 1.0, "spans": [span], "story": []}
    jobs = {name: {"id": name, "created": at_s, **rest} for name, at_s in begun.items()}

    listed = iter([["b", "old"], ["b"], ["b", "a"]])

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/admin/requests":
            assert dict(request.url.params) == {"state": "ended", "sort": "-created", "limit": "2"}
            return httpx2.Response(200, json={"data": [{"id": name, "created": begun[name]} for name in next(listed)]})
        return httpx2.Response(200, json=jobs[request.url.path.rpartition("/")[2]])

    client = httpx2.Client
    monkeypatch.setattr(
        calibrate.httpx2, "Client", lambda **options: client(**options, transport=httpx2.MockTransport(answer))
    )
    monkeypatch.setattr(calibrate, "ASK_AGAIN_S", 0.0)
    found = last_jobs("http://none", 2, 101.0004)
    assert [each["id"] for each in found] == ["a", "b"]
    assert set(found[0]) == {"id", "created", "total_s", "spans"}
    assert set(found[0]["spans"][0]) == set(SPAN)


def test_a_server_that_lists_no_new_jobs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not fitted from jobs of another group."""
    client = httpx2.Client
    answer = httpx2.MockTransport(
        lambda request: httpx2.Response(200, json={"data": [{"id": "old", "created": 100.0}]})
    )
    monkeypatch.setattr(calibrate.httpx2, "Client", lambda **options: client(**options, transport=answer))
    monkeypatch.setattr(calibrate, "ASK_AGAIN_S", 0.0)
    with pytest.raises(ValueError, match="no 1 new jobs"):
        last_jobs("http://none", 1, 101.0)


def test_the_quick_plan_has_fewer_shapes() -> None:
    """But as many kinds of them."""
    whole, quick = plan(), plan(quick=True)
    assert set(quick.shapes) < set(whole.shapes)
    for kind in ("guidance", "steps"):
        assert {getattr(shape, kind) for shape in quick.shapes} == {getattr(shape, kind) for shape in whole.shapes}


def test_requests_with_add_ons_are_timed_once_these_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a kind loads, on every replica of the baseline; the next, of another prompt, is kept."""
    net = AddonsRequest("a", 128, 128, 8, 4.0, 0, adapters=("x",), controlnets=(("y", 0),))
    made = Calibration(CalibrationPlan(tuple(shapes((4,))), 1, 1, (net,)), lambda line: None)
    told = Told(lego())
    monkeypatch.setattr(calibrate, "last_jobs", told.jobs)
    made.lego(told)
    made.baseline(monolith(), Layout(2, 1))
    assert [group.system for group in made.groups if group.shape.addons == (1, 1)] == [LEGO, MONOLITH]
    first, second = (each for each in told.sent if each.addons == (1, 1))
    assert first.prompt != second.prompt
