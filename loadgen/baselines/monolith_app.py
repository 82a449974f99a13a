"""One replica of the monolith: a whole pipeline behind OpenAI's HTTP interface for images."""

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, UploadFile
from pydantic import BaseModel
from ray import serve
from ray.serve.schema import ApplicationStatus

APP = "monolith"  # its name in Serve; further workflows have a suffix
WARM_UP = {"width": 128, "height": 128, "steps": 4, "seed": 0}

api = FastAPI()


class LoraBody(BaseModel):
    """An adapter by name."""

    name: str
    scale: float = 1.0


class ControlBody(BaseModel):
    """A ControlNet by name, its image as base64 of a file."""

    name: str
    image: str
    weight: float = 1.0


class ImageBody(BaseModel):
    """The client's request; ``model`` is accepted without effect, for there is only one."""

    model: str
    prompt: str
    size: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    lora: tuple[LoraBody, ...] = ()
    controlnet: tuple[ControlBody, ...] = ()


# At import, so that the replica's process binds the routes to the class as this one does.
@serve.ingress(api)
class Monolith:
    """The pipeline and its single thread, which makes the images in the order of the requests."""

    def __init__(
        self, weights: str, max_sequence_length: int, threads: int, compiled: bool, addons: str | None, edits: bool
    ) -> None:
        import torch

        from loadgen.baselines.sd3_loading import dtype_name, load_pipeline

        torch.set_num_threads(threads)
        self._max_sequence_length = max_sequence_length
        self._pipeline = load_pipeline(Path(weights))
        self._dtype = dtype_name(self._pipeline)
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        self._addons = None
        self._edits = edits
        if edits:
            from loadgen.baselines.edits import inpaint_pipeline

            self._pipeline = inpaint_pipeline(self._pipeline)
        if addons is not None:
            from loadgen.baselines.addons import Addons

            self._addons = Addons(self._pipeline, Path(addons))
        if compiled:
            self._pipeline.transformer = torch.compile(self._pipeline.transformer, dynamic=True)
        else:
            self._warm_up()

    def _warm_up(self) -> None:
        from loadgen.baselines.sd3_loading import make_image

        arguments: dict[str, Any] = {}
        if self._edits:
            from loadgen.baselines.edits import blank_edit

            arguments = blank_edit(WARM_UP["width"], WARM_UP["height"])
        for guidance in (1.0, 4.0):
            make_image(
                self._pipeline,
                "warm up",
                guidance=guidance,
                max_sequence_length=self._max_sequence_length,
                **WARM_UP,
                **arguments,
            )

    @api.get("/health/ready")
    def ready(self) -> dict[str, str]:
        """Answer 200 once every replica is loaded and warm."""
        applications = serve.status().applications
        if APP not in applications or any(a.status != ApplicationStatus.RUNNING for a in applications.values()):
            raise HTTPException(503, "some replicas are still loading")
        return {"dtype": self._dtype}

    @api.post("/v1/images/generations")
    async def generate(self, body: ImageBody) -> dict[str, Any]:
        """Make one image and answer as OpenAI does."""
        if self._edits:
            raise HTTPException(404, "this server only edits images")
        return await self._run(lambda: self._generate(body))

    @api.post("/v1/images/edits")
    async def edit(
        self,
        image: UploadFile,
        mask: UploadFile,
        model: Annotated[str, Form()],
        prompt: Annotated[str, Form()],
        size: Annotated[str, Form()],
        num_inference_steps: Annotated[int, Form()],
        guidance_scale: Annotated[float, Form()],
        seed: Annotated[int, Form()],
    ) -> dict[str, Any]:
        """Edit one image; other fields of the form are accepted without effect."""
        if not self._edits:
            raise HTTPException(404, "this server edits no images")
        body = ImageBody(
            model=model,
            prompt=prompt,
            size=size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        return await self._run(partial(self._edit, body, await image.read(), await mask.read()))

    async def _run(self, make: Callable[[], str]) -> dict[str, Any]:
        image = await asyncio.get_running_loop().run_in_executor(self._thread, make)
        return {"data": [{"b64_json": image}]}

    def _generate(self, body: ImageBody) -> str:
        pipeline, arguments = self._prepare_addons(body)
        return self._make(body, pipeline, arguments)

    def _edit(self, body: ImageBody, image: bytes, mask: bytes) -> str:
        from loadgen.baselines.edits import edit_inputs

        return self._make(body, self._pipeline, edit_inputs(image, mask))

    def _make(self, body: ImageBody, pipeline: Any, arguments: dict[str, Any]) -> str:
        from loadgen.baselines.sd3_loading import make_image
        from loadgen.images import png_bytes

        width, _, height = body.size.partition("x")
        image = make_image(
            pipeline,
            body.prompt,
            width=int(width),
            height=int(height),
            steps=body.num_inference_steps,
            guidance=body.guidance_scale,
            seed=body.seed,
            max_sequence_length=self._max_sequence_length,
            **arguments,
        )
        return base64.b64encode(png_bytes(image)).decode()

    def _prepare_addons(self, body: ImageBody) -> tuple[Any, dict[str, Any]]:
        """Return the pipeline with the request's add-ons, and its further arguments."""
        if self._addons is None:
            return self._pipeline, {}
        from loadgen.baselines.addons import Control, Lora

        loras = [Lora(lora.name, lora.scale) for lora in body.lora]
        controls = [Control(net.name, net.image, net.weight) for net in body.controlnet]
        return self._addons.prepare(loras, controls)
