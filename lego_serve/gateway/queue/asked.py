"""What a stored request asks for, as far as its body says and else as its workflow has it: pixels, steps and images."""

from collections.abc import Mapping
from dataclasses import dataclass

from lego_serve.core.durable_jobs.record import JobRequest
from lego_serve.core.workflow.graph import Workflow
from lego_serve.gateway.requests.schemas import DALL_E_QUALITY, QUALITY_STEPS, SIZE


@dataclass(frozen=True, slots=True)
class Asked:
    """Width and height in pixels, steps and images; 0 where neither the body nor the workflow says it."""

    width: int = 0
    height: int = 0
    steps: int = 0
    n: int = 1

    @property
    def work(self) -> float:
        """Pixels times steps times images; what is unknown counts as one."""
        return float(max(1, self.width) * max(1, self.height) * max(1, self.steps) * max(1, self.n))


def asked_of(request: JobRequest, workflow: Workflow | None) -> Asked:
    """Return what a request asks for; the size that an edit takes from its image is not known here."""
    body = request.inputs.get("body")
    given: Mapping[str, object] = body if isinstance(body, Mapping) else {}
    quality = given.get("quality")
    by_quality = QUALITY_STEPS.get(DALL_E_QUALITY.get(quality, quality)) if isinstance(quality, str) else None
    size = SIZE.fullmatch(str(given.get("size")))
    width, height = (int(size[1]), int(size[2])) if size else (given.get("width"), given.get("height"))

    def whole(name: str, *values: object, least: int = 0) -> int:
        declared = None if workflow is None else workflow.inputs.get(name)
        known = (*values, None if declared is None else declared.default)
        found = (each for each in known if isinstance(each, int) and not isinstance(each, bool) and each > 0)
        return next(found, least)

    return Asked(
        whole("width", width),
        whole("height", height),
        whole("steps", given.get("num_inference_steps"), by_quality),
        whole("n", given.get("n"), least=1),
    )
