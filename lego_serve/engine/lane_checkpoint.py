"""A lane's checkpoint: the bytes from which another replica, or another process, goes on with the same bits."""

import hashlib
import json
import logging
import math
import struct
from dataclasses import dataclass

import numpy as np
import torch

from lego_serve.engine.lane_state import LaneRequest, LaneState
from lego_serve.engine.rows.computed_rows import rows_computed
from lego_serve.errors import NodeError
from lego_serve.models.sampling import History, Schedule

log = logging.getLogger("lego_serve.engine")
MAGIC = b"lane1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The part of a lane's state that a checkpoint holds.

    ``rows`` of its image were computed in all branches; None in a checkpoint of an older version.
    """

    step: int
    latents: torch.Tensor
    history: History
    steps_without_adapter: int
    rows: float | None = None

    def restore(self, state: LaneState, device: torch.device) -> None:
        """Set a lane back to where it was written, its tensors on a device."""
        state.rows_before = rows_computed(state, self.step) if self.rows is None else self.rows
        state.step, state.latents = self.step, self.latents.to(device)
        state.history = tuple(tensor.to(device) for tensor in self.history)
        state.first_step, state.steps_without_adapter = self.step, self.steps_without_adapter


def write_checkpoint(state: LaneState) -> bytes:
    """Return the whole state of a lane between two steps, as bytes."""
    head = {
        "lane": state.identity,
        "step": state.step,
        "shape": list(state.latents.shape),
        "history": len(state.history),
        "early_steps": state.steps_without_adapter,
        "rows": rows_computed(state, state.step),
    }
    text = json.dumps(head).encode()
    tensors = [state.latents, *state.history]
    body = b"".join(tensor.detach().float().cpu().contiguous().numpy().tobytes() for tensor in tensors)
    return MAGIC + struct.pack("<I", len(text)) + text + body


def lane_identity(request: LaneRequest, schedule: Schedule, model_revision: str) -> str:
    """Return a digest of what a lane's steps depend on besides its prompt, adapters and images.

    After a redeploy the same request may run other weights, or other steps; going on from what the old ones made
    would end as an image that neither makes.
    """
    facts = (
        model_revision,
        (request.sampler_run, request.steps, request.strength, request.seed),
        (request.guidance, request.guided),
        (request.width, request.height),
        (schedule.sigmas, schedule.times),
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def read_checkpoint(data: bytes, shape: tuple[int, ...], identity: str = "") -> Checkpoint | None:
    """Return the content of a checkpoint; None for one of a lane of another identity.

    Raises NodeError where it is damaged or of another shape.
    """
    try:
        if not data.startswith(MAGIC):
            raise ValueError("it does not begin as one")
        start = len(MAGIC) + 4
        (length,) = struct.unpack("<I", data[len(MAGIC) : start])
        head = json.loads(data[start : start + length])
        if head["lane"] != identity:
            log.warning("a lane begins again: its checkpoint is of other weights or another schedule")
            return None
        if tuple(head["shape"]) != shape:
            raise ValueError(f"it is of shape {head['shape']}, the lane of {list(shape)}")
        numbers = np.frombuffer(data, np.float32, offset=start + length)
        tensors = torch.from_numpy(numbers.copy()).view(1 + head["history"], *shape).unbind()
        step, steps_without_adapter = int(head["step"]), int(head.get("early_steps", 0))
        if not 0 <= steps_without_adapter <= step:
            raise ValueError("it has more early steps than steps")
        rows = float(head["rows"]) if "rows" in head else None
        if rows is not None and not 0 <= rows < math.inf:
            raise ValueError("its rows are no number of rows")
        return Checkpoint(step, tensors[0], tensors[1:], steps_without_adapter, rows)
    except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
        log.warning("a lane's checkpoint of %d bytes cannot be read", len(data), exc_info=error)
        message = f"A lane's checkpoint of {len(data)} bytes cannot be read: {type(error).__name__}."
        raise NodeError(message, code="bad_checkpoint") from None
