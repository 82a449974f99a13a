"""A request ready to become a job: its workflow, its body, and a value for each of the workflow's inputs."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.rate_limits import pixel_steps
from lego_serve.core.tiers.book import EXACT, TierChoice
from lego_serve.core.tiers.checkpoints import NO_SUCH_TIER
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Input, Workflow
from lego_serve.core.workflow.tiers import INPUT, Books, choose_tier
from lego_serve.errors import RequestError, with_param
from lego_serve.gateway.requests.schemas import ImageRequest
from lego_serve.gateway.settings import Caller

UNDECODED = b""  # stands for an image while the inputs are bound, so that bounds are checked before any decoding


@dataclass(frozen=True, slots=True)
class ImageJobRequest:
    """A request of the Images API with every input of its workflow bound; ``result`` is known without a job.

    ``tier`` is what it runs in.
    """

    workflow: Workflow
    body: ImageRequest
    inputs: Mapping[str, object]
    caller: Caller
    result: JobResult | None = None
    tier: TierChoice = field(default_factory=TierChoice)

    def work(self, books: Books) -> int:
        """Return what it takes, in pixel-steps, with the tiers of ``books``."""
        return 1 if self.result is not None else pixel_steps(self.workflow, self.inputs, books)

    def lowered(self, books: Books) -> "ImageJobRequest | None":
        """Return it in the lowest tier that it allows; None where it allows none below its own."""
        choice = choose_tier(self.workflow, self.inputs, books, self.body.tier_floor, is_crowded=True)
        if choice.lowered_from is None:
            return None
        return self.in_tier(replace(choice, lowered_from=self.tier.lowered_from or choice.lowered_from))

    def kept_in(self, tier: str, lowered_from: str | None, books: Books) -> "ImageJobRequest":
        """Return it in the tier that an earlier attempt ran; as it is where that is not tuned any more."""
        if INPUT not in self.workflow.inputs:
            return self
        try:
            choice = choose_tier(self.workflow, {**self.inputs, INPUT: tier}, books, None, is_crowded=False)
        except RequestError:
            return self
        return self.in_tier(replace(choice, lowered_from=lowered_from))

    def in_tier(self, tier: TierChoice) -> "ImageJobRequest":
        """Return it as it runs in another tier."""
        return replace(self, inputs={**self.inputs, INPUT: tier.tier}, tier=tier)

    def to_job(self, job_id: str, now: float) -> Job:
        """Return the job, submitted now."""
        deadline_ms = self.body.deadline_ms
        return Job(
            id=job_id,
            workflow=self.workflow.name,
            inputs=self.inputs,
            submitted_s=now,
            deadline_s=None if deadline_ms is None else now + deadline_ms / 1000,
            tenant=self.caller.tenant,
            weight=self.caller.weight,
            stream=StreamOptions(previews=self.body.partial_images or 0, steps=bool(self.body.stream_progress)),
            tier=self.tier,
        )


def bind_inputs(workflow: Workflow, body: ImageRequest, extra: Mapping[str, object]) -> dict[str, object]:
    """Return a value for every input of the workflow, with a random seed where the body gives none.

    ``extra`` holds the values that are not fields of the body.  Raises RequestError about the request's field.
    """
    values = body.inputs() | dict(extra)
    if (guidance := body.guidance_of(workflow, body.guidance_scale)) is not None:
        values["guidance"] = guidance
    if (steps := body.quality_steps) is not None and "steps" in workflow.inputs:
        values["steps"] = _within(workflow.inputs["steps"], steps)
    if "seed" in workflow.inputs:
        values.setdefault("seed", secrets.randbelow(2**32))
    try:
        return bind(workflow, values)
    except RequestError as error:
        raise in_request_words(error, body) from None


def _within(bounds: Input, value: int) -> int:
    """Return a value that is a wish, not a demand, as far as an input's bounds allow."""
    least, most = (bound if bound is None else int(bound) for bound in (bounds.min, bounds.max))
    return max(least or value, min(value, value if most is None else most))


def settle_tier(
    workflow: Workflow, body: ImageRequest, inputs: dict[str, object], books: Books, *, is_crowded: bool
) -> TierChoice:
    """Return the tier of a request, and put it into its bound inputs: its own, or in a crowd a lower one it allows.

    Raises RequestError about the request's field where the tier is not tuned for what is asked.
    """
    floor, is_named = body.tier_floor, body.tier is not None
    try:
        choice = settled_tier(workflow, inputs, books, is_named=is_named, floor=floor, is_crowded=is_crowded)
    except RequestError as error:
        raise in_request_words(error, body) from None
    if INPUT in workflow.inputs:
        inputs[INPUT] = choice.tier
    return choice


def settled_tier(
    workflow: Workflow,
    inputs: Mapping[str, object],
    books: Books,
    *,
    is_named: bool,
    floor: str | None = None,
    is_crowded: bool = False,
) -> TierChoice:
    """Return the tier of bound inputs, as ``choose_tier`` does.

    Raises RequestError, which says what to send where the request named none (``is_named``) and the default is not
    tuned for it.
    """
    try:
        return choose_tier(workflow, inputs, books, floor, is_crowded=is_crowded)
    except RequestError as error:
        if is_named or error.code != NO_SUCH_TIER or not _runs_exact(workflow, inputs, books):
            raise
        message = f"{error.message} It is the tier of requests that name none: send another `tier`, such as exact."
        raise RequestError(message, param=INPUT, code=NO_SUCH_TIER) from None


def _runs_exact(workflow: Workflow, inputs: Mapping[str, object], books: Books) -> bool:
    """Whether a request could name the tier that does all of the work, and run in it."""
    if INPUT not in workflow.inputs:
        return False
    try:
        choose_tier(workflow, {**inputs, INPUT: EXACT}, books, None, is_crowded=False)
    except RequestError:
        return False
    return True


def size_inputs(size: tuple[int, int] | None) -> dict[str, object]:
    """Return the workflow's inputs of a size (width, height); none where the workflow is to choose."""
    return {} if size is None else {"width": size[0], "height": size[1]}


def in_request_words(error: RequestError, body: ImageRequest) -> RequestError:
    """Return an error about a workflow's input as one about the request's field, or its entry, that gives it."""
    field = body.field_of(error.param)
    return error if field in (None, error.param) else with_param(error, field)
