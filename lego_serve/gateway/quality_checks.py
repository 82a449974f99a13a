"""Edits compared with their full computation, after their answers have gone out.

The second computation has the same noise and nobody waits for it: it counts for a tenth of its caller's weight, and
there is none where the server has much to do.
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
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError
from lego_serve.image_metrics import psnr, ssim
from lego_serve.metrics import Metrics

log = logging.getLogger("lego_serve.gateway")
WEIGHT = 0.1  # of the caller's
MAX_AT_ONCE = 1


class QualityChecks:
    """Which edits are computed again and compared, and at what quality edits run for it."""

    def __init__(self, runner: JobRunner, metrics: Metrics, share: float, busy: int) -> None:
        self._runner, self._metrics, self._busy = runner, metrics, busy
        self._guard = QualityGuard(share)
        self._running: set[asyncio.Task[None]] = set()

    def planned(self, workflow: Workflow, ask: EditInput) -> EditInput:
        """The edit at the quality its class needs: the one asked for, or a higher one."""
        of = _class(workflow.name, ask)
        quality = self._guard.quality(of, ask.quality, workflow.min_ssim, self._runner.now())
        return ask if quality is ask.quality else replace(ask, quality=quality)

    def ended(self, job: Job, result: JobResult) -> None:
        """A job has its images; if it was an edit that read activations it may be compared, in the background."""
        ask = job.inputs.get("edit")
        stats = [each.reuse for each in result.stats.values() if each.reuse is not None]
        if not isinstance(ask, EditInput) or not any(each.masked_steps for each in stats):
            return
        is_free = len(self._running) < MAX_AT_ONCE and self._runner.in_flight <= self._busy
        if is_free and self._guard.is_due(_class(job.workflow, ask), ask.quality, self._runner.now()):
            task = asyncio.get_running_loop().create_task(self._compare(job, ask, result.images[0]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def finished(self) -> None:
        """When nothing is being compared."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(self, job: Job, ask: EditInput, image: GeneratedImage) -> None:
        started = self._runner.now()
        again = replace(
            job,
            id=f"job_compared-{secrets.token_hex(8)}",  # no request can have it, whatever id its caller gives
            inputs=dict(job.inputs) | {"edit": replace(ask, quality=Quality.EXACT), "n": 1},
            submitted_s=started,
            deadline_s=None,
            weight=job.weight * WEIGHT,
            stream=StreamOptions(),
        )
        try:
            [full] = (await self._runner.run(again)).images
            said = await asyncio.to_thread(_similarity, ask, image, full)
        except LegoError as error:
            log.info("an edit could not be compared with its full computation: %s", error.message)
        except Exception:
            log.exception("an edit could not be compared with its full computation")
        else:
            self._guard.observe(_class(job.workflow, ask), ask.quality, said[0], self._runner.now())
            self._metrics.record_comparison(job.workflow, ask.quality, *said)
        finally:
            self._guard.spent(self._runner.now() - started, self._runner.now())


def _class(workflow: str, ask: EditInput) -> EditCohort:
    weight = np.asarray(ask.weight)
    return EditCohort.of(workflow, float((weight > 0).mean()), weight.size, ask.is_described)


def _similarity(ask: EditInput, image: GeneratedImage, full: GeneratedImage) -> tuple[float, float, bool]:
    """SSIM and PSNR in the mask, and whether both have the request's own pixels in all else."""
    one, other = (np.frombuffer(p.rgb, np.uint8).reshape(p.height, p.width, 3) for p in (image, full))
    mask, own = np.asarray(ask.weight) > 0, np.asarray(ask.pixels)
    is_own = all(bool((made[~mask] == own[~mask]).all()) for made in (one, other))
    return ssim(one, other, mask), psnr(one, other, mask), is_own
