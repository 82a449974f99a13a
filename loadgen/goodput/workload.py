"""The requests of a suite of goodput: the same for both systems, and no prompt twice."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from loadgen.goodput.plan import GoodputSuite
from loadgen.traffic import ImageRequest, pair_prompts


@dataclass(frozen=True, slots=True)
class WorkflowRequest(ImageRequest):
    """A request to a workflow by its name, at a path of its own where ``prefix`` says so."""

    workflow: str = ""
    prefix: str = ""

    @property
    def path(self) -> str:
        """The path that the request is posted to."""
        return f"{self.prefix}/v1/images/generations"

    def body(self, model: str) -> dict[str, object]:
        """Return the fields of the request."""
        return {**ImageRequest.body(self, model), "model": self.workflow or model}


def endless_requests(suite: GoodputSuite, seed: int) -> Iterator[WorkflowRequest]:
    """Yield requests to the suite's first workflow with new prompts and seeds."""
    seeds = itertools.count(random.Random(f"{seed}/seeds").randrange(2**30))
    first = suite.workflows[0] if suite.workflows else ""
    for prompt in pair_prompts(random.Random(f"{seed}/prompts")):
        yield WorkflowRequest(
            prompt, suite.width, suite.height, suite.steps, suite.guidance, next(seeds), workflow=first
        )


def with_popularity(
    suite: GoodputSuite, requests: Sequence[WorkflowRequest], rng: random.Random
) -> list[WorkflowRequest]:
    """Spread requests over the workflows by popularity, which turns around in the middle."""
    if not suite.workflows:
        return list(requests)
    weights = [1 / (rank + 1) for rank in range(len(suite.workflows))]
    chosen = []
    for index, request in enumerate(requests):
        turned = weights if index < len(requests) / 2 else weights[::-1]
        [name] = rng.choices(suite.workflows, turned)
        chosen.append(replace(request, workflow=name))
    return chosen


def at_own_paths(suite: GoodputSuite, requests: Sequence[WorkflowRequest]) -> list[WorkflowRequest]:
    """Address requests to a baseline that has an application for each workflow, the first at the root."""
    prefixes = {name: f"/{name}" if index else "" for index, name in enumerate(suite.workflows)}
    return [replace(request, prefix=prefixes.get(request.workflow, "")) for request in requests]
