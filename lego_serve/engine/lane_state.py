"""A lane in the engine: what was asked for, where it stands, what came of it, and its checkpoint."""

import json
import math
import struct
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lego_serve.core.costs import StepWork
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.engine.controlnets import ControlNetUse, LaneControlNet
from lego_serve.engine.edits import Edit, LaneEdit
from lego_serve.engine.failures import not_finite
from lego_serve.errors import NodeError, RequestError, UnsupportedParameter
from lego_serve.models.lora.adapter import Adapter, Uses, in_order
from lego_serve.models.ragged.conditioning import Conditioning, ImageLatents, PreparedPrompt
from lego_serve.models.sampling import History, Schedule

MAGIC = b"lane1"


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """One adapter of a lane, with its scale, in the steps i of n where start <= i / n < end."""

    adapter: Adapter
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def is_active(self, step: int, steps: int) -> bool:
        """Whether it takes part in a step."""
        return self.scale != 0 and self.start <= step / steps < self.end


@dataclass(frozen=True, slots=True)
class LaneRequest:
    """One image to denoise; times are on the engine's clock.

    ``guided`` is the part of the steps, from and up to, in which guidance applies (Kynkäänniemi et
    al., 2024): step i of n is guided where from <= i / n < up to.  ``checkpoint`` says where to go
    on; ``suspect_steps`` how many steps from there the lane runs alone.  A lane may come ``is_paused``.
    Several ``controls`` add up, and so do ``adapters``.  ``wait_for_adapters_at``: its adapters are still on their
    way, and from this step of its schedule on it waits until ``StepEngine.adapt`` gives them.  An ``edit`` starts from
    its template instead of ``init``.
    """

    key: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    cond: Conditioning
    negative: Conditioning | None
    init: ImageLatents | None = None
    strength: float = 1.0
    sampler: str = "euler"
    guided: tuple[float, float] = (0.0, 1.0)
    deadline_s: float | None = None
    weight: float = 1.0
    checkpoint: bytes | None = None
    suspect_steps: int = 0
    is_paused: bool = False
    controls: tuple[ControlNetUse, ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    wait_for_adapters_at: int | None = None
    edit: Edit | None = None

    def is_guided(self, step: int) -> bool:
        """Whether guidance applies at a step (of ``steps``)."""
        first, last = self.guided
        return self.negative is not None and self.guidance > 1 and first <= step / self.steps < last

    def check_negative(self, *, uses_cfg: bool) -> None:
        """Raise RequestError for guidance that would have no effect, or a negative prompt that would have none."""
        if uses_cfg and self.negative is None and self.guidance > 1:
            said = "This model is guided by a negative prompt, and the workflow gives it none."
            raise RequestError(said, param="guidance_scale")
        if not uses_cfg and self.negative is not None:
            raise UnsupportedParameter("This model takes no negative prompt.", param="negative_prompt")


@dataclass(frozen=True, slots=True)
class ControlNetRun:
    """A ControlNet of a lane: the number of steps it took part in, and when its passes began and ended by the clock."""

    name: str
    steps_active: int
    passes: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LaneResult:
    """Denoised latents (channels, height, width), fp32, and what each step took and shared.

    ``steps_without_adapter`` were run before its adapters had come.  ``adapter_steps``: of each adapter, by its hash,
    the number of steps it took part in, those that were run elsewhere too.
    """

    latents: torch.Tensor
    queue_s: float
    run_s: float
    step_s: tuple[float, ...]
    step_lanes: tuple[int, ...]
    steps_without_adapter: int = 0
    adapter_steps: tuple[tuple[str, int], ...] = ()
    controls: tuple[ControlNetRun, ...] = ()
    reuse: ReuseStats | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds of a lane."""

    step: int
    latents: torch.Tensor
    history: History
    steps_without_adapter: int

    def on(self, device: torch.device) -> "Checkpoint":
        """The same with its tensors on a device."""
        return replace(self, latents=self.latents.to(device), history=tuple(each.to(device) for each in self.history))


@dataclass(slots=True)
class LaneState:
    """A lane's tensors and record; ``skipped`` steps of the request's lie before its schedule (image to image)."""

    request: LaneRequest
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    latents: torch.Tensor
    schedule: Schedule
    skipped: int
    added_s: float
    history: History = ()
    step: int = 0
    predicted: torch.Tensor | None = None
    started_s: float = math.nan
    step_s: list[float] = field(default_factory=list)
    step_lanes: list[int] = field(default_factory=list)
    controls: tuple[LaneControlNet, ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    wait_for_adapters_at: int | None = None
    is_paused: bool = False  # by an operator
    steps_without_adapter: int = 0  # its first ones, run before its adapters had come, here or where it was before
    unavailable: dict[str, float] = field(default_factory=dict)  # ControlNets it waits for, and since when
    edit: LaneEdit | None = None
    primed: int = 0  # passes over its template that ran for it
    evicted: int = 0  # entries of others that went for what those left

    def resume(self, kept: Checkpoint) -> None:
        """Stand where a checkpoint was written."""
        self.step, self.latents, self.history = kept.step, kept.latents, kept.history
        self.steps_without_adapter = kept.steps_without_adapter

    def hold(self, wait_for_adapters_at: int | None) -> None:
        """Wait for adapters from a step on; from where it stands if it has run with them already, somewhere else."""
        has_had_them = self.steps_without_adapter < self.step
        self.wait_for_adapters_at = (
            self.step if wait_for_adapters_at is not None and has_had_them else wait_for_adapters_at
        )

    def stepped(self) -> None:
        """One more step is done."""
        self.step += 1
        self.steps_without_adapter += self.wait_for_adapters_at is not None

    @property
    def is_held(self) -> bool:
        """Whether it must wait for its adapters now."""
        return self.wait_for_adapters_at is not None and self.step >= self.wait_for_adapters_at

    @property
    def is_waiting(self) -> bool:
        """Whether it is not to run now, for any reason."""
        return self.is_paused or self.is_held or bool(self.unavailable)

    @property
    def eta_s(self) -> float:
        """Seconds to its end at the pace of its last steps; 0 before the first."""
        recent = self.step_s[-5:]
        return sum(recent) / len(recent) * (self.schedule.steps - self.step) if recent else 0.0

    def controls_at(self, step: int) -> tuple[LaneControlNet, ...]:
        """The ControlNets active in a step of the schedule."""
        return tuple(control for control in self.controls if control.use.is_active(step, self.schedule.steps))

    def adapters_at(self, step: int) -> Uses:
        """The adapters active in a step of the schedule, each with its scale."""
        at, of = self.skipped + step, self.request.steps
        return in_order([(use.adapter, use.scale) for use in self.adapters if use.is_active(at, of)])

    def work(self, step: int, tokens: int, *, uses_cfg: bool) -> StepWork:
        """What it brings to one of its steps, both branches where it is guided there."""
        guided = uses_cfg and self.request.is_guided(self.skipped + step)
        conds = [self.cond, self.negative] if guided and self.negative is not None else [self.cond]
        lengths = [tokens + int(cond.tokens.shape[0]) for cond in conds]
        own = StepWork(sum(lengths), sum(length * length for length in lengths))
        return sum((control.work(tokens, guided=guided) for control in self.controls_at(step)), own)

    def result(self, now: float) -> LaneResult:
        """What came of it.  Raises NodeError when the latents are no finite numbers."""
        latents = self.latents.cpu()
        if not bool(torch.isfinite(latents).all()):
            raise not_finite()
        started = self.added_s if math.isnan(self.started_s) else self.started_s
        adapters = tuple((use.adapter.sha256, self._steps_of(use)) for use in self.adapters)
        controls = tuple(self._run_of(control) for control in self.controls)
        queue_s, run_s = started - self.added_s, now - started
        steps = tuple(self.step_s), tuple(self.step_lanes)
        return LaneResult(
            latents, queue_s, run_s, *steps, self.steps_without_adapter, adapters, controls, self._reuse()
        )

    def _steps_of(self, use: AdapterUse) -> int:
        steps = range(self.steps_without_adapter, self.schedule.steps)
        return sum(use.is_active(self.skipped + step, self.request.steps) for step in steps)

    def _run_of(self, control: LaneControlNet) -> ControlNetRun:
        steps = self.schedule.steps
        active = sum(control.use.is_active(step, steps) for step in range(steps))
        passes = tuple(ran for _, ran in sorted(control.passes.copy().items()))
        return ControlNetRun(control.use.controlnet, active, passes)

    def _reuse(self) -> ReuseStats | None:
        if self.edit is None:
            return None
        entries = enumerate(self.edit.plan.entries)
        masked = sum(entry is not None and not self.controls_at(step) for step, entry in entries)
        return self.edit.stats(masked, self.primed, self.evicted)


def write_checkpoint(state: LaneState) -> bytes:
    """The whole state of a lane between two steps, as bytes."""
    tensors = [state.latents, *state.history]
    head = {"step": state.step, "shape": list(state.latents.shape), "history": len(state.history)}
    text = json.dumps(head | {"early_steps": state.steps_without_adapter}).encode()
    body = b"".join(t.detach().float().cpu().contiguous().numpy().tobytes() for t in tensors)
    return MAGIC + struct.pack("<I", len(text)) + text + body


def read_checkpoint(data: bytes, shape: tuple[int, ...]) -> Checkpoint:
    """What a checkpoint holds.  Raises NodeError when it is of another shape or damaged."""
    try:
        if not data.startswith(MAGIC):
            raise ValueError("it does not begin as one")
        start = len(MAGIC) + 4
        (length,) = struct.unpack("<I", data[len(MAGIC) : start])
        head = json.loads(data[start : start + length])
        if tuple(head["shape"]) != shape:
            raise ValueError(f"it is of shape {head['shape']}, the lane of {list(shape)}")
        numbers = np.frombuffer(data, np.float32, offset=start + length)
        tensors = torch.from_numpy(numbers.copy()).view(1 + head["history"], *shape).unbind()
        step, steps_without_adapter = int(head["step"]), int(head.get("early_steps", 0))
        if not 0 <= steps_without_adapter <= step:
            raise ValueError("it has more early steps than steps")
        return Checkpoint(step, tensors[0], tensors[1:], steps_without_adapter)
    except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
        raise NodeError(f"A lane's checkpoint cannot be read: {error}.", code="bad_checkpoint") from None
