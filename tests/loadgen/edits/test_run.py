import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadgen.client import Deadline, Reply, Sample
from loadgen.edits.image_quality import FULL, comparable_edits, edit_quality, read_mask
from loadgen.edits.plan import EDITS
from loadgen.edits.request import EditRequest
from loadgen.edits.run import check_empty_mask, edit_supplement, mask_facts, without_reuse
from loadgen.edits.workload import EditsWorkload
from loadgen.images import read_pixels
from loadgen.mixed import run as module
from loadgen.mixed.hooks import SuiteHooks
from loadgen.mixed.plan import Layout
from loadgen.mixed.run import compare_mixed
from loadgen.mixed.systems import MixedSystems
from loadgen.traffic import Arrivals, ImageRequest
from tests.support.loadgen.simulated import EFFORT, FakeClock, SimulatedServer

CHOSEN = EDITS["edits-tryon"]
SMALL = replace(CHOSEN.plan, side=64, compared=8, shown=3)
SUITE = replace(
    CHOSEN.suite,
    classes=(replace(CHOSEN.suite.classes[0], sizes=((64, 64),)),),
    quick=replace(EFFORT, rounds=2, probe_s=8.0, rated_s=10.0, alone_requests=4, lego_warm_ups=20),
)
Paint = Callable[[EditRequest], np.ndarray]


class DrawnOnce(EditsWorkload):
    """Draws each phase once for both systems and all tests: fewer requests of a phase are the first of more."""

    def __init__(self) -> None:
        super().__init__(SUITE, SMALL, 0)
        self._drawn: dict[tuple[int, int], list[ImageRequest]] = {}

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """Return the first ``count`` requests of a phase."""
        if len(self._drawn.get((round_number, phase), ())) < count:
            self._drawn[round_number, phase] = super().requests(round_number, phase, count)
        return self._drawn[round_number, phase][:count]


WORKLOAD = DrawnOnce()


def edited(request: EditRequest, noise: int = 0) -> np.ndarray:
    """The template with its mask painted over by the seed, a little otherwise where asked."""
    made = read_pixels(request.image).copy()
    mask = read_mask(request.mask)
    made[mask] = (made[mask] // 4 + 100 + request.seed % 50 + noise).astype(np.uint8)
    return made


class Painter(SimulatedServer):
    """A simulated server whose answers are the edits themselves."""

    def __init__(self, clock: FakeClock, cost_s: Callable[[ImageRequest], float], workers: int, paint: Paint) -> None:
        super().__init__(clock, cost_s, workers)
        self._paint = paint

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """As the simulation says, with images."""
        samples = super().run(requests, arrivals, rng, deadline_s)
        return [
            replace(sample, reply=Reply(self._file(request))) if sample.is_ok else sample
            for request, sample in zip(requests, samples, strict=True)
        ]

    def _file(self, request: ImageRequest) -> bytes:
        assert isinstance(request, EditRequest)
        buffer = io.BytesIO()
        Image.fromarray(self._paint(request)).save(buffer, "PNG")
        return buffer.getvalue()


def lego_cost_s(request: ImageRequest) -> float:
    """What is reused is not computed."""
    assert isinstance(request, EditRequest)
    return 0.4 * (request.mask_ratio if request.reuse == "high" else 1.0) + 0.05


def sides(lego: Paint, baseline: Paint) -> MixedSystems:
    clock = FakeClock()
    return MixedSystems(
        lambda layout, compiled: Painter(clock, lambda request: 0.6, layout.replicas, baseline),
        lambda backbones: Painter(clock, lego_cost_s, 2, lego),
    )


@pytest.fixture(scope="module")
def unpinned() -> Iterator[None]:
    """Runs take no cores for themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pin", lambda cores: list(range(cores)))
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, unpinned: None) -> Path:
    """The folder of a run over simulated servers."""
    tmp_path = tmp_path_factory.mktemp("written")
    hooks = SuiteHooks(
        WORKLOAD,
        variants={FULL: without_reuse},
        inspect=lambda server, rated: check_empty_mask(server, WORKLOAD.sample(0.0)),
        supplement=lambda measured, folder: edit_supplement(SMALL, measured, folder),
    )
    reused = sides(lambda request: edited(request, 2 * (request.reuse == "high")), edited)
    compare_mixed(SUITE, reused, tmp_path, quick=True, on_line=lambda line: None, hooks=hooks)
    return tmp_path


def found(folder: Path) -> dict[str, dict[str, object]]:
    loaded: dict[str, dict[str, object]] = json.loads((folder / "summary.json").read_text())
    return loaded


def test_lego_is_measured_with_and_without_reuse(written: Path) -> None:
    """Beside the baseline stands lego computing everything, and what reuse gains over that."""
    summary = found(written)
    full = json.loads((written / "summary.json").read_text())["details"]["lego_variants"][FULL]
    assert 0.9 < full["usual_over_it"]["throughput"] * full["throughput_rps"] / summary["lego"]["throughput_rps"] < 1.1
    assert full["usual_over_it"]["throughput"] > 2
    assert full["usual_over_it"]["mean"] < 0.6
    assert full["alone_s"] == pytest.approx(0.45)
    assert full["failures"] == 0


def test_alone_is_measured_too(written: Path) -> None:
    """The same images one after the other, for whoever has but one request."""
    alone = json.loads((written / "summary.json").read_text())["details"]["alone"]
    assert alone["requests"] == 2 * 4
    assert alone["baseline_s"] == pytest.approx(0.6)
    assert alone["lego_s"] < 0.25


def test_latencies_are_of_a_rate_below_the_baselines_highest(written: Path) -> None:
    """0.8 of it, so that the baseline is not at its limit."""
    summary = json.loads((written / "summary.json").read_text())
    highest = [trace["highest_rps"] for trace in summary["details"]["search"]["baseline"]]
    assert summary["details"]["rates_rps"] == pytest.approx([0.8 * each for each in highest], abs=0.001)


def test_the_summary_tells_of_masks_and_templates(written: Path) -> None:
    """How large the masks were on average, how many were empty, how popular the first template was."""
    about_it = found(written)["details"]["suite"]
    assert isinstance(about_it, dict)
    assert about_it["mask_ratio_mean"] == pytest.approx(about_it["mask_ratio_wanted"], abs=0.03)
    assert 0 <= about_it["empty_masks_share"] < 0.05
    assert 0.15 < about_it["most_popular_template_share"] < 0.45


def test_the_images_are_compared(written: Path) -> None:
    """How like the full computation's they are, and whether every system edited where it should and nowhere else."""
    quality = found(written)["quality"]
    assert quality["edits_looked_at"] == quality["equal_outside"] == quality["visibly_edited_by_lego"]
    assert 4 <= quality["edits_looked_at"] <= 8  # type: ignore[operator]
    assert 0.9 < quality["ssim_in_mask_least"] < 1  # type: ignore[operator]
    assert quality["psnr_in_mask_mean_db"] == pytest.approx(42.11, abs=0.01)
    assert quality["empty_mask_returns_the_template"] is True


def test_a_grid_shows_them(written: Path) -> None:
    """Six columns and a row for each edit, in a file and in the report."""
    with Image.open(written / "edits.png") as grid:
        width, height = grid.size
    assert width > 6 * 192
    assert 3 * 192 < height < 4 * 192
    page = (written / "report.html").read_text()
    assert 'class="wide"' in page
    assert "lego_serve, full computation" in page
    assert "64 x 64 pixels, 20 steps" in page
    assert "0.8 of the baseline&#x27;s highest rate" in page or "0.8 of the baseline's highest rate" in page


def image_figures(lego: Paint, baseline: Paint) -> dict[str, object]:
    """The quality of one round of edits."""
    from loadgen.mixed.bench import Bench
    from loadgen.mixed.rounds import measure

    clock = FakeClock()
    bench = Bench(
        SUITE, replace(SUITE.quick, rounds=1), WORKLOAD, sides(lego, baseline), lambda line: None, clock, 0.0,
        variants={FULL: without_reuse},
    )  # fmt: skip
    seen = measure(bench)
    assert mask_facts(SMALL, seen)["templates"] == 20
    return dict(edit_quality(comparable_edits(seen, 8)))


def test_a_server_that_edits_nothing_is_found_out() -> None:
    """Either system's images are held against the template where the mask says."""
    quality = image_figures(lambda request: read_pixels(request.image), lambda request: read_pixels(request.image))
    assert quality["visibly_edited_by_lego"] == quality["visibly_edited_by_baseline"] == 0


def test_a_server_that_ignores_the_mask_is_found_out() -> None:
    """What it changes elsewhere shows, on either system."""
    quality = image_figures(
        lambda request: 255 - read_pixels(request.image), lambda request: 255 - read_pixels(request.image)
    )
    assert quality["equal_outside"] == 0
    assert quality["baseline_outside_mean_255"] > 20  # type: ignore[operator]


def test_an_empty_mask_that_changes_something_is_found_out() -> None:
    """The template must come back bit for bit."""
    request = WORKLOAD.sample(0.0)
    assert request.mask_ratio == 0
    for level, is_same in ((0, True), (1, False)):
        server = Painter(FakeClock(), lambda _: 0.1, 1, lambda each: read_pixels(each.image) ^ level)  # noqa: B023
        assert check_empty_mask(server, request)["empty_mask_returns_the_template"] is is_same


def test_layouts_are_the_other_suites() -> None:
    """One process of two threads, or two of one."""
    assert CHOSEN.suite.layouts == (Layout(1, 2), Layout(2, 1))
