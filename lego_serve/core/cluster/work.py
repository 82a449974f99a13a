"""The work of a job: its models, and the GPU seconds of its stages alone, paired, split over two workers or in a batch.

A job encodes its prompts, takes its steps, and decodes the image.  With guidance each step has two branches, which one
worker runs as a batch of two (paired) or two workers at the same time (split).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lego_serve.core.cluster.profiles import CostModel


@dataclass(frozen=True, slots=True)
class WorkflowShape:
    """The models that a workflow runs, in order, and how often; its steps compute a part of their ``rows``."""

    name: str
    backbone: str
    steps: int
    branches: int = 1
    encoders: tuple[str, ...] = ()  # for each branch
    prepare: tuple[str, ...] = ()  # once a job
    controlnets: tuple[str, ...] = ()
    decoder: str | None = None
    rows: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.branches not in (1, 2):
            raise ValueError(f"workflow {self.name}: {self.steps} steps of {self.branches} branches cannot run")
        if not 0 < self.rows <= 1:
            raise ValueError(f"workflow {self.name}: a part of {self.rows} of the rows cannot be computed")

    @property
    def models(self) -> frozenset[str]:
        """All models that it runs."""
        decoder = () if self.decoder is None else (self.decoder,)
        return frozenset((*self.encoders, *self.prepare, self.backbone, *self.controlnets, *decoder))


@dataclass(frozen=True)
class JobWork:
    """A shape with its costs; ``scale`` is the length of its steps over the profile's."""

    shape: WorkflowShape
    costs: CostModel = field(repr=False, compare=False)
    scale: float = 1.0

    @cached_property
    def models(self) -> frozenset[str]:
        """The models with weights, which must be on a worker before it can run the job."""
        return frozenset(m for m in self.shape.models if self.costs.profile(m).size_bytes)

    @cached_property
    def encode_s(self) -> float:
        """The seconds of its prompts, all branches in one batch."""
        shape, costs = self.shape, self.costs
        encoders = sum(costs.seconds(model, shape.branches) for model in shape.encoders)
        return encoders + sum(costs.seconds(model, 1) for model in shape.prepare)

    @cached_property
    def decode_s(self) -> float:
        """The seconds of decoding its image."""
        return 0.0 if self.shape.decoder is None else self.costs.seconds(self.shape.decoder, 1)

    @cached_property
    def step_s(self) -> float:
        """The seconds of a step with all branches on one worker."""
        return self._pass_s(self.shape.branches) + self.costs.hop_s

    @cached_property
    def split_step_s(self) -> float:
        """The seconds of a step with each branch on a worker of its own."""
        return self._pass_s(1) + (self.costs.sync_s if self.shape.branches > 1 else self.costs.hop_s)

    def _pass_s(self, rows: int) -> float:
        models = (self.shape.backbone, *self.shape.controlnets)
        return self.scale * sum(self.costs.seconds(model, rows) for model in models)

    @cached_property
    def solo_s(self) -> float:
        """The seconds of the job alone on one GPU, each pass at batch one: what a plain pipeline takes."""
        shape, costs = self.shape, self.costs
        encoders = shape.branches * sum(costs.seconds(model, 1) for model in shape.encoders)
        prepare = sum(costs.seconds(model, 1) for model in shape.prepare)
        return encoders + prepare + shape.steps * shape.branches * self._pass_s(1) + self.decode_s

    @cached_property
    def paired_s(self) -> float:
        """The seconds of the whole job on one worker."""
        return self.left_s(self.shape.steps, is_encoded=False)

    @cached_property
    def critical_s(self) -> float:
        """The seconds of the whole job with a second worker for each of its steps: the least it can take."""
        return self.encode_s + self.shape.steps * min(self.step_s, self.split_step_s) + self.decode_s

    def left_s(self, steps: int, *, is_encoded: bool) -> float:
        """The seconds that are left on one worker, with so many steps to go."""
        return (0.0 if is_encoded else self.encode_s) + steps * self.step_s + self.decode_s

    def least_s(self, rows: Sequence[int]) -> float:
        """The least GPU seconds that the job can take where each pass is in a batch of one of these numbers of rows."""

        def each(model: str) -> float:
            return min(self.costs.seconds(model, batch) / batch for batch in rows)

        shape = self.shape
        encoders = shape.branches * sum(each(model) for model in shape.encoders)
        prepare = sum(each(model) for model in shape.prepare)
        decoder = 0.0 if shape.decoder is None else each(shape.decoder)
        passes = sum(each(model) for model in (shape.backbone, *shape.controlnets))
        return encoders + prepare + decoder + self.scale * shape.steps * shape.branches * passes


def batch_step_s(works: Sequence[JobWork]) -> float:
    """The seconds of one step of several jobs of one backbone, each with all its branches, in one batch."""
    if len(works) == 1:
        return works[0].step_s
    costs, backbone = works[0].costs, works[0].shape.backbone
    rows = sum(work.shape.branches for work in works)
    seconds = costs.hop_s + costs.seconds(backbone, rows) * max(work.scale for work in works)
    controlnets: dict[str, int] = {}
    for work in works:
        for model in work.shape.controlnets:
            controlnets[model] = controlnets.get(model, 0) + work.shape.branches
    return seconds + sum(costs.seconds(model, count) for model, count in controlnets.items())
