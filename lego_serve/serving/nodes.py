"""The model nodes: plain classes that Ray Serve runs, one deployment a model and component.

Values cross as dicts of numpy arrays; an error that is somebody's fault crosses as a value too, so
that it arrives as what it is.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lego_serve.core.batching import StepBatcher, StepLimits
from lego_serve.core.job import TaskStats
from lego_serve.core.ordering import ORDERS
from lego_serve.core.wire import Answer, Call, Leaving, Message, Progress
from lego_serve.engine.calibration import best_batch, calibrate
from lego_serve.engine.fidelity import apply_fidelity
from lego_serve.engine.lanes import LaneProgress, LaneRequest
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread, Watch
from lego_serve.errors import LegoError, NodeError
from lego_serve.models import previews
from lego_serve.models.base import Conditioning, ImageLatents
from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae, model_folder
from lego_serve.models.spec import ModelSpec
from lego_serve.serving.embedding_cache import EmbeddingCache
from lego_serve.serving.microbatch import MicroBatcher

Arrays = dict[str, np.ndarray]
log = logging.getLogger("lego_serve.nodes")


def _one_thread() -> None:
    torch.set_num_threads(1)


class TextEncoderNode:
    """Encodes prompts and remembers them."""

    def __init__(self, spec: ModelSpec, max_batch: int | str, cache_bytes: int) -> None:
        _one_thread()
        self._encoder = load_text_encoder(spec)
        self._encoder.max_batch = best_batch(self._sample) if max_batch == "auto" else int(max_batch)
        self._batcher: MicroBatcher[str, tuple[Arrays, float]] = MicroBatcher(self._encode, self._encoder.max_batch)
        self._cache = EmbeddingCache(cache_bytes)

    async def run(self, call: Call) -> Answer:
        """Encode ``prompt``."""
        arrived = time.monotonic()
        prompt = str(call.inputs["prompt"])
        if (kept := self._cache.get(prompt)) is not None:
            return Answer(kept, TaskStats(cache_hit=True))
        try:
            self._encoder.check(prompt)
        except LegoError as error:
            return Answer(error=error)
        value, run_s = await self._batcher.run(prompt)
        self._cache.put(prompt, value)
        return Answer(value, TaskStats(max(0.0, time.monotonic() - arrived - run_s), run_s))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    def _sample(self, count: int) -> torch.Tensor:
        prompts = ["a red circle", "two", "", "a square on a table", "b", "c d", "e f g", "h"][:count]
        return torch.stack([c.tokens for c in self._encoder.encode_batch(prompts)])

    def _encode(self, prompts: Sequence[str]) -> list[tuple[Arrays, float]]:
        """Conditionings, each with the seconds that the whole batch ran."""
        _one_thread()
        started = time.monotonic()
        made: list[Arrays] = [
            {"tokens": c.tokens.float().cpu().numpy(), "pooled": c.pooled.float().cpu().numpy()}
            for c in self._encoder.encode(prompts)
        ]
        run_s = time.monotonic() - started
        return [(value, run_s) for value in made]


class VaeNode:
    """Encodes pictures and decodes latents."""

    def __init__(self, spec: ModelSpec, max_batch: int | str) -> None:
        _one_thread()
        self._vae = load_vae(spec)
        sample = torch.randn(8, self._vae.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
        size = best_batch(lambda n: self._vae.decode_batch(sample[:n])) if max_batch == "auto" else int(max_batch)
        self._vae.max_batch = size
        self._batcher: MicroBatcher[Call, Arrays] = MicroBatcher(self._compute, 1)
        self._latent_rgb = previews.shipped(model_folder(spec, "vae") / "vae")

    async def run(self, call: Call) -> Answer:
        """Encode ``image``, decode ``latents``, or say how previews are made."""
        arrived = time.monotonic()
        value = await self._batcher.run(call)
        run_s = float(value.pop("run_s"))
        return Answer(value, TaskStats(max(0.0, time.monotonic() - arrived - run_s), run_s))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    def _compute(self, calls: Sequence[Call]) -> list[Arrays]:
        _one_thread()
        return [self._one(call) for call in calls]

    def _one(self, call: Call) -> Arrays:
        started = time.monotonic()
        inputs: Any = call.inputs
        if call.kind == "preview_fit":
            if self._latent_rgb is None:
                self._latent_rgb = previews.fit(self._vae)
            value = {"matrix": self._latent_rgb.numpy()}
        elif call.kind == "decode":
            pixels = self._vae.decode(torch.from_numpy(np.array(inputs["latents"]["latents"])))
            value = {"pixels": pixels.numpy()}
        else:
            picture = torch.from_numpy(np.array(inputs["image"]["pixels"]))
            encoded = self._vae.encode(picture[None])[0]
            value = {"mean": encoded.mean.numpy(), "std": encoded.std.numpy()}
        return value | {"run_s": np.array(time.monotonic() - started)}


class BackboneNode:
    """Denoises lanes in a continuous batch."""

    def __init__(
        self,
        spec: ModelSpec,
        order: str,
        max_step_s: float | str,
        max_rows: int | str,
        checkpoint_every_steps: int,
        fidelity: str,
        bucket_rows: int,
    ) -> None:
        _one_thread()
        backbone, tables = load_backbone(spec)
        backbone.bucket_rows = bucket_rows
        log.info("fidelity of %s: %s", spec.name, apply_fidelity(backbone, fidelity))
        limits = StepLimits(
            None if max_step_s == "auto" else float(max_step_s), None if max_rows == "auto" else int(max_rows)
        )
        batcher = StepBatcher(ORDERS[order], limits, calibrate(backbone))
        self._engine = StepEngine(backbone, tables, batcher, time.monotonic)
        self._every = checkpoint_every_steps
        self._thread: EngineThread | None = None
        self._streams: set[asyncio.Queue[Message]] = set()
        self._lanes = 0
        self._calls: dict[str, list[str]] = {}  # the lanes of each call, by its key
        self._is_draining = False

    async def stream(self, call: Call) -> AsyncIterator[Message]:
        """Denoise ``n`` images with seeds seed, seed + 1, ...; closing the stream drops its lanes."""
        if self._is_draining:
            yield Leaving()
            return
        if self._thread is None:
            self._thread = EngineThread(self._engine)
        queue: asyncio.Queue[Message] = asyncio.Queue()
        self._streams.add(queue)
        work = asyncio.ensure_future(self._denoise(call, queue))
        try:
            while True:
                message = await queue.get()
                yield message
                if isinstance(message, Answer | Leaving):
                    return
        finally:
            self._streams.discard(queue)
            work.cancel()

    async def drain(self) -> int:
        """Send every stream its lanes' fresh checkpoints and end it; take no more calls.  Answers how many moved."""
        self._is_draining = True
        if self._thread is not None:
            await self._thread.drain()
        streams = list(self._streams)
        for queue in streams:
            queue.put_nowait(Leaving())
        return len(streams)

    def pause(self, call: str, paused: bool) -> int:
        """Let a call's lanes wait from the next step on, or go on; answers how many of them are here."""
        lanes = self._calls.get(call, [])
        for lane in lanes:
            assert self._thread is not None
            (self._thread.pause if paused else self._thread.resume)(lane)
        return len(lanes)

    async def check_health(self) -> None:
        """Raise when the compute thread has died, or when the replica has been drained and may be replaced."""
        if self._thread is not None and not self._thread.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")
        if self._is_draining and not self._streams:
            raise NodeError("This replica has been drained.")

    async def _denoise(self, call: Call, queue: asyncio.Queue[Message]) -> None:
        """Run the lanes of a call; the last message is its answer."""
        assert self._thread is not None
        tasks = []
        requests = self._requests(call)
        self._calls[call.key] = [request.key for request in requests]
        for index, request in enumerate(requests):
            watch = Watch(partial(_tell, queue, index), call.listen, self._every)
            tasks.append(asyncio.ensure_future(self._thread.submit(request, watch)))
        try:
            results = await asyncio.gather(*tasks)
        except LegoError as error:
            queue.put_nowait(Answer(error=error))
            return
        except Exception as error:
            log.exception("a denoising call failed")
            queue.put_nowait(Answer(error=NodeError(f"A model node failed: {type(error).__name__}.")))
            return
        finally:
            self._calls.pop(call.key, None)
            for task in tasks:
                task.cancel()
        longest = max(results, key=lambda r: r.queue_s + r.run_s)
        stats = TaskStats(
            longest.queue_s, longest.run_s, step_s=longest.step_s, step_lanes=longest.step_lanes,
            batch_size=max(longest.step_lanes, default=1),
        )  # fmt: skip
        queue.put_nowait(Answer({"latents": torch.stack([r.latents for r in results]).numpy()}, stats))

    def _requests(self, call: Call) -> list[LaneRequest]:
        inputs: Any = call.inputs
        init = inputs.get("init")
        latents = None
        if init is not None:
            latents = ImageLatents(torch.from_numpy(np.array(init["mean"])), torch.from_numpy(np.array(init["std"])))
        deadline = None if call.time_left_s is None else time.monotonic() + call.time_left_s
        cond = _conditioning(inputs["cond"])
        negative = None if inputs.get("negative") is None else _conditioning(inputs["negative"])
        requests = []
        for index in range(int(inputs["n"])):
            self._lanes += 1
            requests.append(
                LaneRequest(
                    key=f"lane-{self._lanes}",
                    width=int(inputs["width"]),
                    height=int(inputs["height"]),
                    steps=int(inputs["steps"]),
                    guidance=float(inputs["guidance"]),
                    seed=(int(inputs["seed"]) + index) % 2**32,
                    cond=cond,
                    negative=negative,
                    init=latents,
                    strength=float(inputs.get("strength", 1.0)),
                    sampler=str(inputs.get("sampler", "euler")),
                    guided=(float(inputs.get("guidance_start", 0.0)), float(inputs.get("guidance_end", 1.0))),
                    deadline_s=deadline,
                    weight=call.weight,
                    checkpoint=call.checkpoints.get(index),
                    suspect_steps=call.suspect_steps,
                    is_paused=call.is_paused,
                )
            )
        return requests


def _tell(queue: asyncio.Queue[Message], lane: int, progress: LaneProgress) -> None:
    queue.put_nowait(
        Progress(
            lane, progress.step, progress.steps, progress.eta_s, progress.preview, progress.checkpoint,
            progress.is_starting, progress.is_report,
        )
    )  # fmt: skip


def _conditioning(value: Arrays) -> Conditioning:
    return Conditioning(torch.from_numpy(np.array(value["tokens"])), torch.from_numpy(np.array(value["pooled"])))


NODES: dict[str, type[TextEncoderNode] | type[VaeNode] | type[BackboneNode]] = {
    "text_encoder": TextEncoderNode,
    "vae": VaeNode,
    "backbone": BackboneNode,
}
