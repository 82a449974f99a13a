"""Edits compared with their full computation, behind the answer."""

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest

from lego_serve.core.editing.edit import EditInput
from lego_serve.core.editing.quality_guard import MIN_SAMPLES
from lego_serve.core.editing.reuse import Quality, ReuseStats
from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult, TaskStats
from lego_serve.core.scheduling.admission import QUIET_DIVISOR, AdmissionLimits
from lego_serve.errors import RequestError
from lego_serve.gateway.admission import Admission
from lego_serve.gateway.media.workers import ImageWorkers
from lego_serve.gateway.quality_checks import QualityChecks
from lego_serve.metrics import Metrics
from lego_serve.workflow_files import built_in_workflows

SIDE = 32
WORKFLOW = replace(built_in_workflows()["lego-tiny-edit"], min_ssim=0.9)
NOISE = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
BLACK = np.zeros_like(NOISE)


class Painter:
    """Runs an edit: ``full`` where it is computed in full, and otherwise what ``other`` holds."""

    def __init__(self, other: np.ndarray, full: np.ndarray = BLACK) -> None:
        self.jobs: list[Job] = []
        self.full, self.other, self.in_flight, self.error = full, other, 0, False

    def now(self) -> float:
        """A clock that stands still: comparing takes no time."""
        return 5.0

    async def run(self, job: Job, tell: object = None) -> JobResult:
        """Paint."""
        self.jobs.append(job)
        if self.error:
            raise RequestError("no")
        ask = job.inputs["edit"]
        assert isinstance(ask, EditInput)
        full = ask.quality is Quality.EXACT
        pixels = self.full if full else self.other
        stats = ReuseStats(ask.quality, 0 if full else 9, 9, 2, 4, 0)
        image = GeneratedImage(SIDE, SIDE, pixels.tobytes(), 7)
        images = (image,) * int(str(job.inputs["n"]))
        return JobResult(images, 0.0, {}, 0, {"latents": TaskStats(reuse=stats)})


def asked(quality: Quality = Quality.HIGH) -> EditInput:
    """An edit of an image's upper left."""
    weight = np.zeros((SIDE, SIDE), np.uint8)
    weight[:16, :16] = 255
    return EditInput(BLACK, weight, quality)


def checks_of(
    runner: Painter, metrics: Metrics, fraction: float = 1.0, workers: ImageWorkers | None = None
) -> QualityChecks:
    """The checks of a gateway that is quiet with up to nine jobs pending."""
    admission = Admission(AdmissionLimits(max_pending=9 * QUIET_DIVISOR), runner, metrics)
    return QualityChecks(runner, metrics, fraction, admission, workers or ImageWorkers())


async def edit(checks: QualityChecks, runner: Painter, ask: EditInput | None = None) -> None:
    """One edit, asked for and answered, and whatever follows."""
    planned = checks.plan(WORKFLOW, ask or asked())
    job = Job("j", WORKFLOW.name, {"edit": planned, "n": 2, "seed": 7}, 1.0, 99.0, "t", 2.0)
    checks.consider(job, await runner.run(job))
    await checks.finished()


@pytest.fixture
def metrics() -> Metrics:
    """The gateway's."""
    return Metrics()


async def test_the_comparison_has_the_same_noise_and_nobody_waits_for_it(metrics) -> None:
    """One image, in full, of little weight and without a deadline."""
    runner = Painter(NOISE)
    await edit(checks_of(runner, metrics), runner)
    assert [job.inputs["edit"].quality for job in runner.jobs] == [Quality.HIGH, Quality.EXACT]
    again = runner.jobs[1]
    assert (again.inputs["n"], again.inputs["seed"], again.deadline_s) == (1, 7, None)
    assert again.weight < runner.jobs[0].weight / 5


async def test_a_class_found_wanting_is_computed_with_more_care(metrics) -> None:
    """After as many comparisons as a judgement needs; metrics have them, and that pixels outside were changed."""
    runner = Painter(NOISE)
    checks = checks_of(runner, metrics)
    for _ in range(MIN_SAMPLES):
        await edit(checks, runner)
    assert checks.plan(WORKFLOW, asked()).quality is Quality.CAREFUL
    assert checks.plan(replace(WORKFLOW, min_ssim=None), asked()).quality is Quality.HIGH
    page = metrics.page({}).decode()
    assert 'lego_serve_edit_ssim_count{quality="high",workflow="lego-tiny-edit"} 3.0' in page
    assert 'lego_serve_edit_outside_mask_changes_total{workflow="lego-tiny-edit"} 3.0' in page


async def test_edits_whose_image_is_described_are_judged_apart(metrics) -> None:
    """A low SSIM of one cohort does not raise the quality of the other."""
    runner = Painter(NOISE)
    for described in (False, True):
        checks = checks_of(runner, metrics)
        for _ in range(MIN_SAMPLES):
            await edit(checks, runner, replace(asked(), is_described=described))
        found = {
            is_described: checks.plan(WORKFLOW, replace(asked(), is_described=is_described)).quality
            for is_described in (False, True)
        }
        assert found == {described: Quality.CAREFUL, not described: Quality.HIGH}


async def test_a_class_that_is_like_the_full_computation_stays(metrics) -> None:
    """And nothing outside changed."""
    runner = Painter(BLACK)
    checks = checks_of(runner, metrics)
    for _ in range(MIN_SAMPLES + 2):
        await edit(checks, runner)
    assert checks.plan(WORKFLOW, asked()).quality is Quality.HIGH
    assert 'lego_serve_edit_outside_mask_changes_total{workflow="lego-tiny-edit"} 0.0' in metrics.page({}).decode()


@pytest.mark.parametrize(
    ("answered", "full", "spills"), [(NOISE, NOISE, 0), (NOISE, BLACK, 1), (BLACK, NOISE, 1), (BLACK, BLACK, 1)]
)
async def test_outside_both_have_the_requests_own_pixels(metrics, answered, full, spills) -> None:
    """Two that are wrong alike are found as well as one that is."""
    runner = Painter(answered, full)
    await edit(checks_of(runner, metrics), runner, replace(asked(), pixels=NOISE))
    assert len(runner.jobs) == 2
    assert (
        f'lego_serve_edit_outside_mask_changes_total{{workflow="lego-tiny-edit"}} {spills}.0'
        in metrics.page({}).decode()
    )


async def test_images_are_compared_where_uploads_are_read(metrics) -> None:
    """In a turn of their own, so that comparing takes no third thread and no upload waits for more than one."""
    runner, workers = Painter(NOISE), ImageWorkers()
    checks = checks_of(runner, metrics, workers=workers)
    async with workers.turn("alpha"):
        comparing = asyncio.ensure_future(edit(checks, runner))
        async with asyncio.timeout(60):
            while len(runner.jobs) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(runner.jobs) == 2
        assert b"lego_serve_edit_ssim_count{" not in metrics.page({})
    await comparing
    assert b'lego_serve_edit_ssim_count{quality="high",workflow="lego-tiny-edit"} 1.0' in metrics.page({})


async def test_a_comparison_has_a_name_that_no_client_can_give(metrics) -> None:
    """Jobs are named by their clients; a comparison's name has nothing of its job's, and cannot be guessed."""
    runner = Painter(NOISE)
    checks = checks_of(runner, metrics)
    for _ in range(2):
        await edit(checks, runner)
    names = [job.id for job in runner.jobs if job.id != "j"]
    assert len(set(names)) == 2
    assert all(re.fullmatch("job_compared-[0-9a-f]{16}", name) for name in names)


async def test_nothing_is_compared_that_read_nothing_or_where_there_is_much_to_do(metrics) -> None:
    """Full edits, other jobs, a busy server, and a server that is told not to."""
    runner = Painter(NOISE)
    checks = checks_of(runner, metrics)
    await edit(checks, runner, asked(Quality.EXACT))
    plain = Job("j", "w", {}, 1.0)
    checks.consider(plain, JobResult((), 0.0))
    runner.in_flight = 10
    await edit(checks, runner)
    runner.in_flight = 0
    await edit(checks_of(runner, metrics, 0.0), runner)
    await asyncio.sleep(0)
    assert len(runner.jobs) == 3


async def test_a_comparison_that_fails_harms_nobody(metrics) -> None:
    """It is as if there had been none."""
    runner = Painter(NOISE)
    checks = checks_of(runner, metrics)
    for _ in range(MIN_SAMPLES + 1):
        job = Job("j", WORKFLOW.name, {"edit": asked(), "n": 1, "seed": 7}, 1.0)
        result = await runner.run(job)
        runner.error = True
        checks.consider(job, result)
        await checks.finished()
        runner.error = False
    assert checks.plan(WORKFLOW, asked()).quality is Quality.HIGH
