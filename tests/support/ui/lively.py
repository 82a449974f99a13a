"""A runner that takes its time and draws something, so that pages have previews, steps and images to show."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lego_serve.core.addons import AdapterStats
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.jobs.dataflow import Dataflow
from lego_serve.core.jobs.events import CancelRequested, Event, JobSubmitted, TaskDone, TaskFailed
from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult, TaskStats
from lego_serve.core.jobs.ports import CheckpointKeeper
from lego_serve.core.nodes.messages import DenoiseOutput, TextEncodeOutput
from lego_serve.core.nodes.requests import MemoryUse, ReplicaLoad, SeenReplica
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.scale_board import NodeScale
from lego_serve.errors import LegoError
from tests.support.gateway.runner import FakeRunner

GROUNDS = ("#2a5fdd", "#f2c522", "#1d7a5a", "#f1f1ef", "#15171c")
FORMS = ("#d32323", "#f2c522", "#1d7a5a", "#2a5fdd", "#7b3fa8")


class LivelyRunner(FakeRunner):
    """Draws shapes by the seed, ``step_s`` a step, on replicas that exist in name only; nodes run as they would."""

    def __init__(self, step_s: float = 0.02, replicas: Sequence[str] = ("c01d", "e41a")) -> None:
        super().__init__()
        self.step_s, self.backbones = step_s, list(replicas)
        self.clock: Callable[[], float] = time.monotonic
        self.stays_at: int | None = None  # after this step each job waits until it is None, as if that took so long
        self._flow = Dataflow()
        self._paused: set[str] = set()
        self._draining: set[str] = set()
        self.evicted = 0
        self.board.nodes["lego-tiny.backbone"] = NodeScale(len(self.backbones), ReplicaBounds(1, 4))

    def now(self) -> float:
        """The machine's clock, or a test's."""
        return self.clock()

    def story(self, job_id: str) -> tuple[str, ...]:
        """What the dataflow tells."""
        return self._flow.story(job_id)

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Those in flight are known."""
        (self._paused.add if paused else self._paused.discard)(job_id)
        self.journal.history.note_paused(job_id, paused, self.now())
        verb = "pause" if paused else "resume"
        self.journal.decide(verb, "lego-tiny", "an operator asked", self.now(), by="operator", job=job_id)
        return await super().pause(job_id, paused) or any(job.id == job_id for job in self.waiting)

    async def loads(self) -> list[SeenReplica]:
        """The backbones by what is in flight, and one replica of each other component."""
        held = Counter(record.replica for record in self.journal.history.live if record.replica)
        seen = []
        for index, name in enumerate(self.backbones):
            memory = (
                MemoryUse("weights", 45_000_000),
                MemoryUse("templates", 21_000_000 * (index + 1), 64_000_000, self.evicted),
                MemoryUse("adapters", 9_000_000, 40_000_000),
            )
            running = min(held[name], 8)
            load = ReplicaLoad(running, held[name] - running, self.step_s, (3, 4, running), memory, "m1", room=8)
            load = replace(load, is_draining=name in self._draining)
            seen.append(SeenReplica(name, "lego-tiny", "backbone", load))
        text = ReplicaLoad(memory=(MemoryUse("prompts", 21_000_000, 64_000_000),), machine="m1", room=4)
        adapters = ReplicaLoad(memory=(MemoryUse("adapters", 96_000, 128_000),), machine="m2")
        others = {"text_encoder": text, "vae": ReplicaLoad(1, 0, machine="m2", room=1), "adapters": adapters}
        return seen + [SeenReplica(f"{name[:2]}17", "lego-tiny", name, load) for name, load in others.items()]

    async def drain(self, replica: str) -> int:
        """What it has goes on elsewhere; it takes nothing more, until `stop` puts another in its place."""
        if replica not in self.backbones:
            return await super().drain(replica)
        held = [record for record in self.journal.history.live if record.replica == replica]
        self._draining.add(replica)
        why = f"an operator asked; its {len(held)} calls go on elsewhere from fresh checkpoints"
        self.journal.decide("drain", replica, why, self.now(), by="operator")
        return len(held)

    def stop(self, replica: str, successor: str) -> None:
        """A drained replica ends, and its successor is up."""
        self.backbones[self.backbones.index(replica)] = successor

    def lose(self, replica: str) -> None:
        """A replica dies: what it had goes on elsewhere."""
        self.backbones.remove(replica)
        self.journal.note_departed([replica], self.now())

    async def run(
        self,
        job: Job,
        tell: Callable[[JobProgress], None] | None = None,
        checkpoints: CheckpointKeeper | None = None,
    ) -> JobResult:
        """Go through the nodes and the steps, with as many previews as are wanted, then draw."""
        self.jobs.append(job)
        self.in_flight += 1
        self.waiting.append(job)
        self._feed(JobSubmitted(job, self.workflows[job.workflow]))
        try:
            if self.error is not None:
                raise self.error
            if self.gate is not None:
                await self.gate.wait()
            return await self._nodes(job, tell)
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            self._feed(CancelRequested(job.id, "the client left"))
            raise
        except LegoError as error:
            self._feed(TaskFailed(job.id, next(iter(self.workflows[job.workflow].nodes)), error))
            raise
        finally:
            self.in_flight -= 1
            self.waiting.remove(job)

    def _feed(self, event: Event) -> None:
        now = self.now()
        self.journal.history.note(event, self._flow.handle(event, now), now)

    async def _nodes(self, job: Job, tell: Callable[[JobProgress], None] | None) -> JobResult:
        workflow = self.workflows[job.workflow]
        result, left = _result(job, self.step_s), dict(workflow.nodes)
        while left:
            name, node = next((name, node) for name, node in left.items() if not node.needs & set(left))
            del left[name]
            stats = TaskStats(0.002, 0.01, node.kind == "text_encode" and name != "cond")
            if node.kind == "denoise":
                stats = replace(result.stats["latents"], **await self._steps(job, name, tell))
            else:
                await asyncio.sleep(self.step_s)
            self._feed(TaskDone(job.id, name, _made(node.kind, job), stats))
        return result

    async def _steps(self, job: Job, node: str, tell: Callable[[JobProgress], None] | None) -> dict[str, Any]:
        steps, n = int(str(job.inputs["steps"])), int(str(job.inputs["n"]))
        previews = {round(steps * (i + 1) / (job.stream.previews + 1)) for i in range(job.stream.previews)}
        history, began = self.journal.history, self.now()
        took: list[tuple[float, float, int]] = []
        replica = self._take(job, node)
        for step in range(1, steps + 1):
            while job.id in self._paused or (self.stays_at is not None and step > self.stays_at):
                await asyncio.sleep(self.step_s)  # between two steps, as a replica does
            at = self.now()
            await asyncio.sleep(self.step_s)
            if replica not in self.backbones or replica in self._draining:
                end: Literal["moved", "lost"] = "moved" if replica in self._draining else "lost"
                self.journal.note_attempt(job.id, node, end, replica, self.now())
                replica = self._take(job, node)
            took.append((at - began, self.now() - at, 1 + len(self.waiting)))
            for index in range(n):
                history.note_step(job.id, index, step, steps, (steps - step) * self.step_s, self.now())
                preview = _preview(job, index, step / steps) if step in previews and step < steps else None
                if tell is not None and step < steps and (preview is not None or job.stream.steps):
                    tell(JobProgress(index, step, steps, (steps - step) * self.step_s, preview))
        at_s, step_s, lanes = zip(*took, strict=True)
        return {"step_at": at_s, "step_s": step_s, "step_lanes": lanes, "run_s": self.now() - began, "queue_s": 0.0}

    def _take(self, job: Job, node: str) -> str:
        ready = [name for name in self.backbones if name not in self._draining]
        replica = ready[len(self.jobs) % len(ready)]
        self.journal.history.note_attempt(job.id, node, "accepted", replica, self.now())
        return replica


def _made(kind: str, job: Job) -> object:
    """What a node makes, as large as it would be."""
    width, height = int(str(job.inputs["width"])), int(str(job.inputs["height"]))
    if kind == "denoise":
        return DenoiseOutput(np.zeros((1, 16, height // 8, width // 8), np.float32))
    if kind == "text_encode":
        return TextEncodeOutput(np.zeros((333, 192), np.float32), np.zeros(192, np.float32))
    return object()


def shapes(width: int, height: int, seed: int) -> Image.Image:
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
    """Such an image as a file."""
    file = io.BytesIO()
    shapes(width, height, seed).save(file, "PNG")
    return file.getvalue()


def _drawn(job: Job, index: int) -> tuple[int, int, Image.Image, int]:
    width, height, seed = (int(str(job.inputs[name])) for name in ("width", "height", "seed"))
    image = shapes(width, height, seed + index)
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
