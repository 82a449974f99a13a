"""From a denoising call to the engine's lanes."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lego_serve.core.addons import ControlNetInput
from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.jobs.messages import NodeCall
from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import AdapterUse, LaneRequest
from lego_serve.engine.template_store import Template
from lego_serve.models.ragged.conditioning import Conditioning, ImageLatents


def lane_requests(
    call: NodeCall, first: int, adapters: tuple[AdapterUse, ...] = (), wait_for_adapters_at: int | None = None
) -> list[LaneRequest]:
    """The lanes of a call, named from number ``first`` on; ``wait_for_adapters_at``: its adapters are still to come."""
    inputs: Any = call.inputs
    init = inputs.get("init")
    latents = None
    if init is not None:
        latents = ImageLatents(torch.from_numpy(np.array(init["mean"])), torch.from_numpy(np.array(init["std"])))
    deadline = None if call.time_left_s is None else time.monotonic() + call.time_left_s
    controls = tuple(map(_control, (inputs.get("controls") or {"controls": ()})["controls"]))
    cond = _conditioning(inputs["cond"])
    negative = None if inputs.get("negative") is None else _conditioning(inputs["negative"])
    edit = _edit(inputs["edit"]["edit"], inputs.get("prime"), cond, negative) if inputs.get("edit") else None
    requests = []
    for index in range(int(inputs["n"])):
        requests.append(
            LaneRequest(
                key=f"lane-{first + index}",
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
                controls=controls,
                adapters=adapters,
                wait_for_adapters_at=wait_for_adapters_at,
                edit=edit,
            )
        )
    return requests


def _control(given: ControlNetInput) -> ControlNetUse:
    latents = torch.from_numpy(np.array(given.latents))
    return ControlNetUse(given.name, latents, given.weight, given.start, given.end, key=given.key)


def _edit(
    given: EditLatents, prime: Mapping[str, np.ndarray] | None, cond: Conditioning, negative: Conditioning | None
) -> Edit:
    """An edit of a template, primed with the words the workflow gives for it, or else with the request's own."""
    template = Template.of(torch.from_numpy(np.array(given.latents)), given.seed, given.image)
    other = negative if negative is not None else cond
    primes = (cond, other) if prime is None else (_conditioning(prime), other)
    is_described = prime is None or given.is_described
    return Edit(template, torch.from_numpy(np.array(given.mask)), given.quality, primes, given.pin, is_described)


def _conditioning(value: Mapping[str, np.ndarray]) -> Conditioning:
    return Conditioning(torch.from_numpy(np.array(value["tokens"])), torch.from_numpy(np.array(value["pooled"])))
