"""What a stored request asks for is read from its body, as it is stored, and from its workflow."""

import pytest

from lego_serve.core.durable_jobs.record import JobRequest
from lego_serve.gateway.queue.asked import Asked, asked_of
from lego_serve.workflow_files import built_in_workflows

WORKFLOW = built_in_workflows()["lego-tiny"]
DEFAULTS = [int(str(WORKFLOW.inputs[name].default)) for name in ("width", "height", "steps", "n")]


def request(body: object) -> JobRequest:
    """A stored request with a body."""
    inputs = {"body": body, "files": {}}
    return JobRequest("/v1/images/generations", "lego-tiny", "lego-tiny", inputs, seed=3)


def test_what_the_body_says_counts_before_the_workflows_defaults() -> None:
    """Its size, its steps by number or by a word, and its images."""
    body = {"prompt": "a", "size": "96x128", "num_inference_steps": 12, "n": 3}
    assert asked_of(request(body), WORKFLOW) == Asked(96, 128, 12, 3)
    assert asked_of(request({"prompt": "a", "quality": "low"}), WORKFLOW).steps == 8
    assert asked_of(request({"prompt": "a", "quality": "standard"}), WORKFLOW).steps == 20
    assert asked_of(request({"prompt": "a"}), WORKFLOW) == Asked(*DEFAULTS)


@pytest.mark.parametrize("body", [None, [], {"size": "auto", "n": True, "num_inference_steps": "x", "quality": "auto"}])
def test_what_nobody_says_is_unknown(body: object) -> None:
    """Without a workflow, or with a body that another version wrote; it counts as one."""
    assert asked_of(request(body), None) == Asked()
    assert Asked().work == 1.0
    assert Asked(2, 3, 5, 7).work == 210.0
