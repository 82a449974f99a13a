"""Compares edits with their full computation, after their answers have gone out.

The full computation has the same noise and nobody waits for it: it counts for a tenth of its caller's weight, and it
runs only where the server is quiet.
"""

import asyncio
import logging
import secrets
from dataclasses import replace

import numpy as np

from lego_serve.core.editing.edit import EditInput
from lego_serve.core.editing.quality_guard import EditCohort, QualityGuard
from lego_serve.core.editing.reuse import Quality
from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult
from lego_serve.core.jobs.ports import JobRunner
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.scheduling.admission import DEFAULT_DEADLINES, DeadlineLimits
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError
from lego_serve.gateway.admission import Admission, Place, applicant_of
from lego_serve.gateway.media.workers import ImageWorkers
from lego_serve.image_metrics import psnr, ssim
from lego_serve.metrics import Metrics

log = logging.getLogger("lego_serve.gateway")
WEIGHT_FACTOR = 0.1  # of the caller's
TENANT = "(quality checks)"  # no caller can have this name, and no caller's share pays for them


class QualityChecks:
    """Chooses the quality of edits, and computes some of them again in full to learn what quality they need."""

    def __init__(
        self,
        runner: JobRunner,
        metrics: Metrics,
        fraction: float,
        admission: Admission,
        images: ImageWorkers,
        deadlines: DeadlineLimits = DEFAULT_DEADLINES,
    ) -> None:
        self._runner, self._metrics, self._admission, self._deadlines = runner, metrics, admission, deadlines
        self._images = images
        self._guard = QualityGuard(fraction)
        self._running: set[asyncio.Task[None]] = set()

    def plan(self, workflow: Workflow, edit: EditInput) -> EditInput:
        """Return the edit at the quality its cohort needs: the requested one, or a higher one."""
        cohort = _cohort(workflow.name, edit)
        quality = self._guard.quality(cohort, edit.quality, workflow.min_ssim, self._runner.now())
        return edit if quality is edit.quality else replace(edit, quality=quality)

    def consider(self, job: Job, result: JobResult) -> None:
        """Compare a job that has ended, in the background, if it is an edit that read activations and one is due."""
        edit = job.inputs.get("edit")
        if not isinstance(edit, EditInput) or not _has_read_activations(result):
            return
        comparison = self._full_computation(job, edit)
        place = self._admission.reserve_background(applicant_of(comparison))
        if place is None:
            return
        if not self._guard.is_due(_cohort(job.workflow, edit), edit.quality, self._runner.now()):
            place.release(is_done=False)
            return
        task = asyncio.get_running_loop().create_task(self._compare(comparison, job, result.images[0], place))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def comparisons(self) -> list[dict[str, object]]:
        """Return what comparing edits has come to, by workflow, class of edits and quality."""
        return [
            {
                "workflow": each.cohort.workflow,
                "class": _class_of(each.cohort),
                "quality": each.quality.value,
                "count": each.count,
                "mean": round(each.mean, 5),
                "floor": self._runner.workflows[each.cohort.workflow].min_ssim,
            }
            for each in self._guard.comparisons(self._runner.now())
            if each.cohort.workflow in self._runner.workflows
        ]

    async def finished(self) -> None:
        """Wait until nothing is being compared."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def close(self) -> None:
        """Give up what is being compared."""
        for task in list(self._running):
            task.cancel()
        await self.finished()

    async def _compare(self, comparison: Job, job: Job, image: GeneratedImage, place: Place) -> None:
        edit, started = job.inputs["edit"], self._runner.now()
        assert isinstance(edit, EditInput)
        cohort = _cohort(job.workflow, edit)
        try:
            [full] = (await self._runner.run(comparison)).images
            async with self._images.turn(TENANT, comparison.weight) as thread:
                similarity, decibels, is_equal_outside = await thread.read(_similarity, edit, image, full)
        except LegoError as error:
            log.info("an edit could not be compared with its full computation: %s", error.message)
        except Exception:
            log.exception("an edit could not be compared with its full computation")
        else:
            self._guard.observe(cohort, edit.quality, similarity, self._runner.now())
            self._metrics.record_comparison(job.workflow, edit.quality, similarity, decibels, is_equal_outside)
        finally:
            place.release()
            self._guard.record_time(self._runner.now() - started, self._runner.now())

    def _full_computation(self, job: Job, edit: EditInput) -> Job:
        """Return the job that computes one image of an edit without reading activations."""
        now = self._runner.now()
        return replace(
            job,
            id=f"job_compared-{secrets.token_hex(8)}",  # no request can have it, whatever id its caller gives
            inputs=dict(job.inputs) | {"edit": replace(edit, quality=Quality.EXACT), "n": 1},
            submitted_s=now,
            deadline_s=None,
            latest_s=self._deadlines.latest(now, None),
            tenant=TENANT,
            weight=job.weight * WEIGHT_FACTOR,
            stream=StreamOptions(),
        )


def _has_read_activations(result: JobResult) -> bool:
    return any(stats.reuse is not None and stats.reuse.masked_steps for stats in result.stats.values())


def _cohort(workflow: str, edit: EditInput) -> EditCohort:
    weight = np.asarray(edit.weight)
    return EditCohort.of(workflow, float((weight > 0).mean()), weight.size, edit.is_described)


def _class_of(cohort: EditCohort) -> str:
    side = round(cohort.pixels**0.5)
    return f"up to {cohort.share:.0%} of up to {side}x{side}{', with a caption' if cohort.is_described else ''}"


def _similarity(edit: EditInput, image: GeneratedImage, full: GeneratedImage) -> tuple[float, float, bool]:
    """Return SSIM and PSNR in the mask, and whether both images have the request's own pixels in all else."""
    answered, recomputed = _pixels(image), _pixels(full)
    mask, original = np.asarray(edit.weight) > 0, np.asarray(edit.pixels)
    is_equal_outside = all(bool((pixels[~mask] == original[~mask]).all()) for pixels in (answered, recomputed))
    return ssim(answered, recomputed, mask), psnr(answered, recomputed, mask), is_equal_outside


def _pixels(image: GeneratedImage) -> np.ndarray:
    return np.frombuffer(image.rgb, np.uint8).reshape(image.height, image.width, 3)
