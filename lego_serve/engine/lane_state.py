"""A lane in the engine: its request, its state between two steps, its result and its checkpoint."""

import math
from dataclasses import dataclass, field

import torch

from lego_serve.core.costs import StepWork
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import EXACT, TierUse
from lego_serve.core.tiers.grids import Grid
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.engine.controlnets import ControlNetRun, ControlNetUse, LaneControlNet
from lego_serve.engine.edits import Edit, LaneEdit
from lego_serve.engine.failures import not_finite
from lego_serve.engine.rows.block_rows import step_work
from lego_serve.engine.rows.computed_rows import tier_use
from lego_serve.engine.rows.own_rows import LaneRows
from lego_serve.engine.rows.references import LaneReference, Reference
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.models.lora.adapter import Adapter, Uses, in_order, key_of
from lego_serve.models.ragged.conditioning import Conditioning, ImageLatents, PreparedPrompt
from lego_serve.models.sampling import History, Schedule


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

    ``guided`` is the part of the steps, from and up to, in which guidance applies (Kynkäänniemi et al., 2024): step i
    of n is guided where from <= i / n < up to.  A ``checkpoint`` is the state to go on from; from there the lane runs
    ``suspect_steps`` steps alone.  On a ``grid`` the lane runs the grid's steps, with its sampler, in place of the
    ``steps`` that are asked for; whatever is active in a part of the steps is so in the part of the grid that stands
    for them, and the answer names the ``tier``.  With ``own_rows`` some steps compute a part of the rows, with
    ``block_rows`` some of their blocks.  A lane may be added paused.  The effects of several ``controls`` add up, and
    those of several ``adapters``.  ``wait_for_adapters_at``: the adapters are still loading, and from this one on of
    the asked steps that it runs the lane waits until ``StepEngine.adapt`` gives them.  An ``edit`` starts from its
    template instead of ``init``.  All its rows attend to those of the ``references`` as well.  ``was_guided``: whether
    guidance was asked for, where the tier has its own.
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
    references: tuple[Reference, ...] = ()
    tenant: str = "default"
    grid: Grid | None = None
    tier: str = EXACT
    own_rows: OwnRows | None = None
    block_rows: BlockRows | None = None
    was_guided: bool | None = None

    @property
    def sampler_run(self) -> str:
        """The sampler that its steps are taken with."""
        return self.sampler if self.grid is None else self.grid.sampler

    def is_guided(self, step: int) -> bool:
        """Whether guidance applies at one of the ``steps`` that are asked for."""
        first, last = self.guided
        return self.negative is not None and self.guidance > 1 and first <= step / self.steps < last

    def asked_branches(self, step: int) -> int:
        """Return the branches of one of the asked steps as it was asked for, without a tier."""
        is_guided = self.is_guided(step) if self.was_guided is None else self.was_guided
        return 2 if is_guided else 1

    def check_negative(self, *, uses_cfg: bool) -> None:
        """Raise RequestError where guidance, or a negative prompt, would have no effect."""
        if uses_cfg and self.negative is None and self.guidance > 1:
            message = "This model is guided by a negative prompt, and the workflow gives it none."
            raise RequestError(message, param="guidance_scale")
        if not uses_cfg and self.negative is not None:
            raise UnsupportedParameter("This model takes no negative prompt.", param="negative_prompt")


@dataclass(frozen=True, slots=True)
class LaneResult:
    """Denoised latents (channels, height, width), fp32, with the seconds of each step and the lanes that shared it.

    ``step_rows``: the token rows of all of them in each step, as planned.  ``step_at``: when each began, counted from
    the lane's arrival; what lies between them is waiting.  ``steps_split`` ran on two replicas.
    ``steps_without_adapter`` ran before the adapters had loaded.  ``adapter_steps``: by the hash of each adapter, the
    number of steps it took part in, steps on other replicas included.
    """

    latents: torch.Tensor
    queue_s: float
    run_s: float
    step_s: tuple[float, ...]
    step_lanes: tuple[int, ...]
    steps_without_adapter: int = 0
    adapter_steps: tuple[tuple[str, int], ...] = ()
    step_rows: tuple[int, ...] = ()
    controls: tuple[ControlNetRun, ...] = ()
    reuse: ReuseStats | None = None
    step_at: tuple[float, ...] = ()
    tier: TierUse | None = None
    steps_split: int = 0


@dataclass(slots=True)
class LaneState:
    """A lane's tensors and record; ``tokens`` are its image's rows.

    ``skipped``: steps of the request that lie before the schedule (image to image).  ``predicted``: the last step's
    estimate of the finished latents, for previews.
    """

    request: LaneRequest
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    latents: torch.Tensor
    schedule: Schedule
    tokens: int
    skipped: int
    added_s: float
    history: History = ()
    step: int = 0
    predicted: torch.Tensor | None = None
    started_s: float = math.nan
    step_s: list[float] = field(default_factory=list)
    step_lanes: list[int] = field(default_factory=list)
    step_rows: list[int] = field(default_factory=list)
    step_at: list[float] = field(default_factory=list)  # when each began, counted from the lane's arrival here
    controls: tuple[LaneControlNet, ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    wait_for_adapters_at: int | None = None
    is_paused: bool = False  # by an operator
    steps_without_adapter: int = 0  # run before its adapters had loaded, here or on another replica
    unavailable: dict[str, float] = field(default_factory=dict)  # ControlNets it waits for, and since when
    edit: LaneEdit | None = None
    references: tuple[LaneReference, ...] = ()
    own: LaneRows | None = None
    blocks: BlockRows | None = None
    first_step: int = 0  # that it takes here: after a resume, the step of the checkpoint
    rows_before: float = 0.0  # of its image, computed in all branches by the steps before that one
    identity: str = ""  # of what its steps depend on; a checkpoint of another one is not gone on from
    primed_passes: int = 0  # passes over its template that ran for it
    evicted_entries: int = 0  # entries of other templates that were dropped for those
    steps_split: int = 0  # whose guidance branches two replicas computed

    def expect_adapters(self, asked_step: int | None) -> None:
        """Wait for adapters from an asked step on, or for none; at once where steps on another replica had them.

        On a grid: from the step on that stands for that one, and in any case before the last.
        """
        self.wait_for_adapters_at = None
        if asked_step is not None:
            has_run_with_them = self.steps_without_adapter < self.step
            self.wait_for_adapters_at = self.step if has_run_with_them else self.schedule.early_steps(asked_step)

    def count_step(self) -> None:
        """Count a finished step."""
        self.step += 1
        if self.wait_for_adapters_at is not None:
            self.steps_without_adapter += 1

    @property
    def is_waiting_for_adapters(self) -> bool:
        """Whether it can take no step before its adapters have loaded."""
        return self.wait_for_adapters_at is not None and self.step >= self.wait_for_adapters_at

    @property
    def is_waiting(self) -> bool:
        """Whether it must not run now, for any reason."""
        return self.is_paused or self.is_waiting_for_adapters or bool(self.unavailable)

    @property
    def reference_rows(self) -> int:
        """The rows of its references, which every row of its own attends to."""
        return sum(reference.rows for reference in self.references)

    @property
    def eta_s(self) -> float:
        """Seconds to its end at the pace of its last steps; 0 before the first."""
        recent = self.step_s[-5:]
        return sum(recent) / len(recent) * (self.schedule.steps - self.step) if recent else 0.0

    def survived(self, lane: int) -> LaneProgress:
        """Return the message that it, a suspect of this number in its call, did not take the replica down."""
        return LaneProgress(lane, self.step, self.schedule.steps, self.eta_s, is_report=False)

    def is_guided(self, step: int) -> bool:
        """Whether guidance applies at a step of the schedule."""
        return self.request.is_guided(self.skipped + self.schedule.begins[step])

    def controls_at(self, step: int) -> tuple[LaneControlNet, ...]:
        """Return the ControlNets active in a step of the schedule."""
        return tuple(control for control in self.controls if self._is_controlled(control, step))

    def adapters_at(self, step: int) -> Uses:
        """Return the adapters active in a step of the schedule, each with its scale."""
        return in_order([(use.adapter, use.scale) for use in self.adapters if self._is_active(use, step)])

    def rows_by_block(self, step: int) -> tuple[int, ...]:
        """Return how many of its image's rows each block of a step computes; one number where all blocks are alike.

        Of an edit, see ``LaneEdit``.  All in the first step here, where nothing is kept; under a ControlNet, whose
        residuals are for whole images; and where adapters, guidance or ControlNets are others than in the step before.
        """
        if step > self.first_step and not self.controls_at(step) and self._is_as_before(step):
            if self.blocks is not None:
                return self.blocks.rows(self.schedule.steps - step, self.tokens)
            if self.own is not None and not self.own.plan.is_dense(step):
                return (self.own.plan.active_rows(self.tokens),)
        return (self.tokens,)

    def work(self, step: int, *, uses_cfg: bool) -> StepWork:
        """Return the rows and pairs of one of its steps, of both branches where that is guided."""
        guided = uses_cfg and self.is_guided(step)
        conds = [self.cond, self.negative] if guided and self.negative is not None else [self.cond]
        rows, texts = self.rows_by_block(step), [int(cond.tokens.shape[0]) for cond in conds]
        keys = (self.tokens,) * len(rows) if self.blocks is None else rows  # own rows read the others, as they were
        own = step_work(rows, keys, texts, self.reference_rows)
        return sum((control.work(self.tokens, guided=guided) for control in self.controls_at(step)), own)

    def result(self, now: float) -> LaneResult:
        """Return the finished lane.  Raises NodeError when its latents are no finite numbers."""
        latents = self.latents.cpu()
        if not bool(torch.isfinite(latents).all()):
            raise not_finite()
        started_s = self.added_s if math.isnan(self.started_s) else self.started_s
        return LaneResult(
            latents=latents,
            queue_s=started_s - self.added_s,
            run_s=now - started_s,
            step_s=tuple(self.step_s),
            step_lanes=tuple(self.step_lanes),
            step_rows=tuple(self.step_rows),
            step_at=tuple(self.step_at),
            steps_without_adapter=self.steps_without_adapter,
            adapter_steps=tuple((use.adapter.sha256, self._active_steps(use)) for use in self.adapters),
            controls=tuple(self._controlnet_run(control) for control in self.controls),
            reuse=self._reuse_stats(),
            tier=tier_use(self),
            steps_split=self.steps_split,
        )

    def _is_active(self, use: AdapterUse, step: int) -> bool:
        return use.is_active(self.skipped + self.schedule.begins[step], self.request.steps)

    def _is_controlled(self, control: LaneControlNet, step: int) -> bool:
        return control.use.is_active(self.schedule.span(step), self.schedule.asked)

    def _active_steps(self, use: AdapterUse) -> int:
        return sum(self._is_active(use, step) for step in range(self.steps_without_adapter, self.schedule.steps))

    def _controlnet_run(self, control: LaneControlNet) -> ControlNetRun:
        active = sum(self._is_controlled(control, step) for step in range(self.schedule.steps))
        passes = control.passes.copy()  # a pass elsewhere may still be written down, by another thread
        return ControlNetRun(control.use.controlnet, active, tuple(passes[step] for step in sorted(passes)))

    def _is_as_before(self, step: int) -> bool:
        now, before = (
            (self.is_guided(each), key_of(self.adapters_at(each)), bool(self.controls_at(each)))
            for each in (step, step - 1)
        )
        return now == before

    def _reuse_stats(self) -> ReuseStats | None:
        if self.edit is None:
            return None
        entries = enumerate(self.edit.plan.entries)
        masked_steps = sum(entry is not None and not self.controls_at(step) for step, entry in entries)
        return self.edit.stats(masked_steps, self.primed_passes, self.evicted_entries)
