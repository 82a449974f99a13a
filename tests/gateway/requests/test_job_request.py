"""The inputs of a request are bound to its workflow once."""

import base64

import pytest
from PIL import Image

from lego_serve.core.workflow.bind import bind
from lego_serve.gateway.requests import job_request
from tests.support.gateway.images import file_of

IMAGE = file_of(Image.new("RGB", (128, 96)))
MASK = file_of(Image.new("RGBA", (128, 96)))
CONTROLLED = {"prompt": "a", "controlnet": [{"name": "edges", "image": base64.b64encode(IMAGE).decode()}]}


@pytest.mark.parametrize(
    ("path", "content", "workflow"),
    [
        ("generations", {"json": {"prompt": "a"}}, "lego-tiny"),
        ("generations", {"json": CONTROLLED}, "lego-tiny-controlnet"),
        ("edits", {"files": {"image": IMAGE}, "data": {"prompt": "a"}}, "lego-tiny-img2img"),
        ("edits", {"files": {"image": IMAGE, "mask": MASK}, "data": {"prompt": "a"}}, "lego-tiny-edit"),
    ],
)
async def test_inputs_are_bound_once(client, runner, monkeypatch, path, content, workflow) -> None:
    """Whatever media must be decoded, and the job has what was decoded in place of the binding's placeholder."""
    bound = []

    def counted(chosen, values):
        bound.append(chosen.name)
        return bind(chosen, values)

    monkeypatch.setattr(job_request, "bind", counted)
    assert (await client.post(f"/v1/images/{path}", **content)).status_code == 200
    assert bound == [workflow]
    [job] = runner.jobs
    assert job.workflow == workflow
    assert job_request.UNDECODED not in [value for value in job.inputs.values() if isinstance(value, bytes)]


@pytest.mark.parametrize(
    ("path", "content", "workflow"),
    [
        ("generations", {"json": {"prompt": "a", "size": "16x16"}}, "lego-tiny"),
        ("edits", {"files": {"image": IMAGE}, "data": {"prompt": "a", "size": "16x16"}}, "lego-tiny-img2img"),
    ],
)
async def test_a_refused_request_is_counted_for_its_workflow(client, path, content, workflow) -> None:
    """By the error's code, for edits as for generations."""
    assert (await client.post(f"/v1/images/{path}", **content)).status_code == 400
    page = (await client.get("/metrics")).text
    assert f'lego_serve_requests_total{{outcome="out_of_range",workflow="{workflow}"}} 1.0' in page
