"""The model nodes: plain classes that Ray Serve runs, one deployment a model and component.

Values cross as dicts of numpy arrays; an error that is somebody's fault crosses as a value too, so
that it arrives as what it is.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lego_serve.core.batching import StepBatcher
from lego_serve.core.job import TaskStats
from lego_serve.core.ordering import ORDERS
from lego_serve.core.wire import Answer, Call
from lego_serve.engine.calibration import best_batch, best_rows
from lego_serve.engine.step_engine import LaneRequest, StepEngine
from lego_serve.engine.thread import EngineThread
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.base import Conditioning, ImageLatents
from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae
from lego_serve.models.spec import ModelSpec
from lego_serve.serving.embedding_cache import EmbeddingCache
from lego_serve.serving.microbatch import MicroBatcher

Arrays = dict[str, np.ndarray]


def _one_thread() -> None:
    torch.set_num_threads(1)


class TextEncoderNode:
    """Encodes prompts and remembers them."""

    def __init__(self, spec: ModelSpec, max_batch: int | str, cache_bytes: int) -> None:
        _one_thread()
        self._encoder = load_text_encoder(spec)
        self._encoder.max_batch = best_batch(self._sample) if max_batch == "auto" else int(max_batch)
        self._batcher: MicroBatcher[str, Arrays] = MicroBatcher(self._encode, self._encoder.max_batch)
        self._cache = EmbeddingCache(cache_bytes)

    async def run(self, call: Call) -> Answer:
        """Encode ``prompt``."""
        started = time.monotonic()
        prompt = str(call.inputs["prompt"])
        if (kept := self._cache.get(prompt)) is not None:
            return Answer(kept, TaskStats(cache_hit=True))
        try:
            self._encoder.check(prompt)
        except LegoError as error:
            return Answer(error=error)
        value = await self._batcher.run(prompt)
        self._cache.put(prompt, value)
        return Answer(value, TaskStats(run_s=time.monotonic() - started))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    def _sample(self, count: int) -> torch.Tensor:
        prompts = ["a red circle", "two", "", "a square on a table", "b", "c d", "e f g", "h"][:count]
        return torch.stack([c.tokens for c in self._encoder.encode_batch(prompts)])

    def _encode(self, prompts: Sequence[str]) -> list[Arrays]:
        _one_thread()
        return [
            {"tokens": c.tokens.float().cpu().numpy(), "pooled": c.pooled.float().cpu().numpy()}
            for c in self._encoder.encode(prompts)
        ]


class VaeNode:
    """Encodes pictures and decodes latents."""

    def __init__(self, spec: ModelSpec, max_batch: int | str) -> None:
        _one_thread()
        self._vae = load_vae(spec)
        sample = torch.randn(8, self._vae.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
        size = best_batch(lambda n: self._vae.decode_batch(sample[:n])) if max_batch == "auto" else int(max_batch)
        self._vae.max_batch = size
        self._batcher: MicroBatcher[Call, Arrays] = MicroBatcher(self._compute, 1)

    async def run(self, call: Call) -> Answer:
        """Encode ``image`` or decode ``latents``."""
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
        if call.kind == "decode":
            pixels = self._vae.decode(torch.from_numpy(np.array(inputs["latents"]["latents"])))
            value = {"pixels": pixels.numpy()}
        else:
            picture = torch.from_numpy(np.array(inputs["image"]["pixels"]))
            encoded = self._vae.encode(picture[None])[0]
            value = {"mean": encoded.mean.numpy(), "std": encoded.std.numpy()}
        return value | {"run_s": np.array(time.monotonic() - started)}


class BackboneNode:
    """Denoises lanes in a continuous batch."""

    def __init__(self, spec: ModelSpec, order: str, max_rows: int | str) -> None:
        _one_thread()
        backbone, sampler = load_backbone(spec)
        rows = best_rows(backbone) if max_rows == "auto" else int(max_rows)
        self._engine = StepEngine(backbone, sampler, StepBatcher(ORDERS[order], rows), time.monotonic)
        self._thread: EngineThread | None = None
        self._lanes = 0

    async def run(self, call: Call) -> Answer:
        """Denoise ``n`` images with seeds seed, seed + 1, ...; cancelling the call drops its lanes."""
        if self._thread is None:
            self._thread = EngineThread(self._engine)
        requests = self._requests(call)
        tasks = [asyncio.ensure_future(self._thread.submit(request)) for request in requests]
        try:
            results = await asyncio.gather(*tasks)
        except LegoError as error:
            return Answer(error=error)
        finally:
            for task in tasks:
                task.cancel()
        longest = max(results, key=lambda r: r.queue_s + r.run_s)
        stats = TaskStats(
            longest.queue_s, longest.run_s, step_s=longest.step_s, step_lanes=longest.step_lanes,
            batch_size=max(longest.step_lanes),
        )  # fmt: skip
        return Answer({"latents": torch.stack([r.latents for r in results]).numpy()}, stats)

    async def check_health(self) -> None:
        """Raise when the compute thread has died."""
        if self._thread is not None and not self._thread.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")

    def _requests(self, call: Call) -> list[LaneRequest]:
        inputs: Any = call.inputs
        init = inputs.get("init")
        latents = None
        if init is not None:
            latents = ImageLatents(torch.from_numpy(np.array(init["mean"])), torch.from_numpy(np.array(init["std"])))
        deadline = None if call.time_left_s is None else time.monotonic() + call.time_left_s
        requests = []
        for index in range(int(inputs["n"])):
            self._lanes += 1
            requests.append(
                LaneRequest(
                    f"lane-{self._lanes}",
                    int(inputs["width"]),
                    int(inputs["height"]),
                    int(inputs["steps"]),
                    float(inputs["guidance"]),
                    (int(inputs["seed"]) + index) % 2**32,
                    _conditioning(inputs["cond"]),
                    _conditioning(inputs["negative"]),
                    latents,
                    float(inputs.get("strength", 1.0)),
                    deadline,
                    call.weight,
                )
            )
        return requests


def _conditioning(value: Arrays) -> Conditioning:
    return Conditioning(torch.from_numpy(np.array(value["tokens"])), torch.from_numpy(np.array(value["pooled"])))


NODES: dict[str, type[TextEncoderNode] | type[VaeNode] | type[BackboneNode]] = {
    "text_encoder": TextEncoderNode,
    "vae": VaeNode,
    "backbone": BackboneNode,
}
