"""A runner that takes its time and draws something, so that pages have previews, steps and pictures to show."""

import asyncio
import io
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lego_serve.core.addons import AdapterStats
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult, TaskStats
from tests.support.gateway.runner import FakeRunner

GROUNDS = ("#2a5fdd", "#f2c522", "#1d7a5a", "#f1f1ef", "#15171c")
FORMS = ("#d32323", "#f2c522", "#1d7a5a", "#2a5fdd", "#7b3fa8")


class LivelyRunner(FakeRunner):
    """Draws shapes by the seed, ``step_s`` a step."""

    def __init__(self, step_s: float = 0.02) -> None:
        super().__init__()
        self.step_s = step_s

    def now(self) -> float:
        """The machine's clock."""
        return time.monotonic()

    async def run(self, job: Job, tell: Callable[[JobProgress], None] | None = None) -> JobResult:
        """Go through the steps, with as many previews as are wanted, then draw."""
        self.jobs.append(job)
        self.in_flight += 1
        self.waiting.append(job)
        try:
            if self.error is not None:
                raise self.error
            if self.gate is not None:
                await self.gate.wait()
            await self._steps(job, tell)
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        finally:
            self.in_flight -= 1
            self.waiting.remove(job)
        return _result(job, self.step_s)

    async def _steps(self, job: Job, tell: Callable[[JobProgress], None] | None) -> None:
        steps, n = int(str(job.inputs["steps"])), int(str(job.inputs["n"]))
        previews = {round(steps * (i + 1) / (job.stream.previews + 1)) for i in range(job.stream.previews)}
        for step in range(1, steps):
            await asyncio.sleep(self.step_s)
            for index in range(n if tell is not None else 0):
                preview = _preview(job, index, step / steps) if step in previews else None
                if preview is not None or job.stream.steps:
                    tell(JobProgress(index, step, steps, (steps - step) * self.step_s, preview))  # type: ignore[misc]
        await asyncio.sleep(self.step_s)


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Two shapes on a ground, by a seed."""
    image = Image.new("RGB", (width, height), GROUNDS[seed % len(GROUNDS)])
    pen, side = ImageDraw.Draw(image), min(width, height)
    colours = [form for form in FORMS if form != GROUNDS[seed % len(GROUNDS)]]
    x, y, r = width * (0.25 + 0.1 * (seed % 3)), height * 0.5, side * 0.21
    pen.ellipse((x - r, y - r, x + r, y + r), colours[seed % len(colours)])
    x, y, r = width * 0.76, height * 0.7, side * 0.12
    pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], colours[(seed + 1) % len(colours)])
    return image


def png(width: int = 128, height: int = 128, seed: int = 3) -> bytes:
    """Such a picture as a file."""
    file = io.BytesIO()
    picture(width, height, seed).save(file, "PNG")
    return file.getvalue()


def _drawn(job: Job, index: int) -> tuple[int, int, Image.Image, int]:
    width, height, seed = (int(str(job.inputs[name])) for name in ("width", "height", "seed"))
    image = picture(width, height, seed + index)
    edit = job.inputs.get("edit")
    if edit is not None:
        pixels, weight = np.asarray(edit.pixels), np.asarray(edit.weight)  # type: ignore[attr-defined]
        weight = weight.reshape(pixels.shape[:2])[..., None] > 0
        image = Image.fromarray(np.where(weight, np.asarray(image), pixels).astype(np.uint8))
    return width, height, image, seed + index


def _preview(job: Job, index: int, share: float) -> GeneratedImage:
    width, height, image, seed = _drawn(job, index)
    small = image.filter(ImageFilter.GaussianBlur(12 * (1 - share))).resize((width // 8, height // 8))
    return GeneratedImage(small.width, small.height, small.tobytes(), seed)


def _result(job: Job, step_s: float) -> JobResult:
    images = []
    for index in range(int(str(job.inputs["n"]))):
        width, height, image, seed = _drawn(job, index)
        images.append(GeneratedImage(width, height, image.tobytes(), seed))
    steps = int(str(job.inputs["steps"]))
    reuse = ReuseStats("high", masked_steps=steps, steps=steps, active_rows=40, rows=192, primed=0)
    used = tuple(AdapterStats(each.name, each.scale, True, 0.0, 1000) for each in job.inputs.get("lora", ()))  # type: ignore[attr-defined]
    latents = TaskStats(
        0.02, step_s * steps, False, 1, (step_s,) * steps, (3,) * steps, adapters=used,
        reuse=reuse if "edit" in job.inputs else None,
    )  # fmt: skip
    nodes: Mapping[str, float] = {"cond": 0.012, "negative": 0.004, "latents": step_s * steps, "image": 0.035}
    return JobResult(tuple(images), 0.018, nodes, 1, {"latents": latents})
