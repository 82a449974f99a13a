"""`lora` of an edit: a text field of JSON; where it is routed to, what a job gets, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lego_serve.core.addons import AdapterRequest
from tests.support.gateway.images import file_of, good

URL = "/v1/images/edits"
LORA = {"name": "stripes"}
IMAGE = {"image": good("RGB")}
MASKED = IMAGE | {"mask": good()}


@pytest.mark.parametrize("model", [None, "lego-tiny", "its own", "without adapters"])
@pytest.mark.parametrize(("files", "kind"), [(IMAGE, "img2img"), (MASKED, "edit")])
async def test_an_edit_goes_to_the_workflow_that_takes_what_it_adds(client, runner, files, kind, model) -> None:
    """With a mask or none; also when the workflow it names takes none of it, or part of it."""
    named = {"its own": f"lego-tiny-{kind}-lora", "without adapters": f"lego-tiny-{kind}"}.get(model, model)
    fields = {"prompt": "a"} | ({} if named is None else {"model": named})
    lora = [LORA | {"scale": -0.5, "start": 0.25}, {"name": "pastel-r32", "end": 0.5}]
    answer = await client.post(URL, files=files, data=fields | {"lora": json.dumps(lora)})
    assert answer.status_code == 200, answer.text
    job = runner.jobs[0]
    assert job.workflow == f"lego-tiny-{kind}-lora"
    assert job.inputs["lora"] == (AdapterRequest("stripes", -0.5, 0.25), AdapterRequest("pastel-r32", 1.0, 0.0, 0.5))


@pytest.mark.parametrize("nothing", ["[]", "null", " [ ] ", "", " "])
async def test_no_adapters_are_none(client, runner, nothing) -> None:
    """The edit is one without."""
    assert (await client.post(URL, files=MASKED, data={"prompt": "a", "lora": nothing})).status_code == 200
    assert runner.jobs[0].workflow == "lego-tiny-edit"


@pytest.mark.parametrize(
    ("lora", "code", "param"),
    [
        ("stripes", "invalid_json", "lora"),
        ('[{"name": "stripes"}', "invalid_json", "lora"),
        ('[{"name": "\\ud800"}]', "invalid_json", "lora"),
        ("[" * 60_000, "invalid_json", "lora"),
        ("{}", "invalid_type", "lora"),
        ('"stripes"', "invalid_type", "lora"),
        ("1", "invalid_type", "lora"),
        ("[1]", "invalid_type", "lora[0]"),
        ("[{}]", "missing", "lora[0].name"),
        ('[{"name": 1}]', "invalid_type", "lora[0].name"),
        ('[{"name": "../../etc/passwd"}]', "invalid_value", "lora[0].name"),
        ('[{"name": "a", "scale": "1"}]', "invalid_type", "lora[0].scale"),
        ('[{"name": "a", "scale": true}]', "invalid_type", "lora[0].scale"),
        ('[{"name": "a", "scale": NaN}]', "invalid_value", "lora[0].scale"),
        ('[{"name": "a", "scale": 1e999}]', "invalid_value", "lora[0].scale"),
        ('[{"name": "a", "scale": 11}]', "out_of_range", "lora[0].scale"),
        ('[{"name": "a", "start": 0.5, "end": 0.5}]', "out_of_range", "lora[0].start"),
        ('[{"name": "a", "weight": 1}]', "unsupported_parameter", "lora[0].weight"),
        (json.dumps([{"name": str(i)} for i in range(5)]), "too_many", "lora"),
        (json.dumps([LORA, LORA]), "duplicate_name", "lora[1].name"),
    ],
)
async def test_adapters_that_cannot_be_are_refused_by_name(client, runner, lora, code, param) -> None:
    """As in a generation; what is no JSON is told so, and nothing of it comes back."""
    answer = await client.post(URL, files=MASKED, data={"prompt": "a", "lora": lora})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error
    assert "passwd" not in answer.text
    assert runner.jobs == []


async def test_adapters_twice_or_as_a_file_are_refused(client, runner) -> None:
    """The field is one, and text."""
    twice = [("prompt", (None, "a")), ("lora", (None, "[]")), ("lora", (None, "[]")), ("image", ("a.png", good("RGB")))]
    answer = await client.post(URL, files=twice)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "duplicate_field")
    answer = await client.post(URL, files=IMAGE | {"lora": b"[]"}, data={"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora")
    assert runner.jobs == []


@pytest.mark.parametrize(
    ("served", "files", "param"),
    [
        ({"lego-tiny", "lego-tiny-edit"}, MASKED, "lora"),
        ({"lego-tiny", "lego-tiny-img2img", "lego-tiny-lora"}, IMAGE, "lora"),
        ({"lego-tiny", "lego-tiny-img2img", "lego-tiny-lora"}, MASKED, "mask"),
        ({"lego-tiny", "lego-tiny-lora"}, IMAGE, "image"),
    ],
)
async def test_what_no_workflow_takes_is_refused_by_name(client, runner, monkeypatch, served, files, param) -> None:
    """The image first, then what is added to it."""
    known = {name: workflow for name, workflow in runner.workflows.items() if name in served}
    monkeypatch.setattr(type(runner), "workflows", known)
    answer = await client.post(URL, files=files, data={"prompt": "a", "lora": json.dumps([LORA])})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", param)


async def test_a_mask_of_nothing_has_its_adapters_checked_and_no_job(client, runner) -> None:
    """The image comes back as it is, unless an adapter is named that there is not, or that is damaged."""
    opaque = file_of(Image.fromarray(np.full((96, 128, 4), 255, np.uint8)))
    files = IMAGE | {"mask": opaque}
    answer = await client.post(URL, files=files, data={"prompt": "a", "lora": json.dumps([{"name": "a"}])})
    assert answer.status_code == 200, answer.text
    answer = await client.post(URL, files=files, data={"prompt": "a", "lora": json.dumps([{"name": "a"}, LORA])})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "adapter_not_found", "lora[1].name")
    assert runner.jobs == []


@pytest.mark.parametrize("model", [None, "lego-tiny", "lego-tiny-edit"])
async def test_a_registered_template_is_edited_with_adapters(client, runner, model) -> None:
    """Whether the edit says which model it is for or leaves that to the template; as the edit of the image is."""
    known = await client.post("/v1/templates", files=IMAGE)
    assert known.status_code == 201, known.text
    fields = {"prompt": "a", "lora": json.dumps([LORA])} | ({} if model is None else {"model": model})
    named = await client.post(URL, files={"mask": MASKED["mask"]}, data=fields | {"template": known.json()["id"]})
    assert named.status_code == 200, named.text
    assert (await client.post(URL, files=MASKED, data=fields)).status_code == 200
    assert [job.workflow for job in runner.jobs] == ["lego-tiny-edit-lora"] * 2
    assert len({job.inputs["edit"].image for job in runner.jobs}) == 1


async def test_a_template_of_another_model_is_refused_with_adapters_too(client, runner) -> None:
    """The model that is asked about is the one the request names."""
    known = (await client.post("/v1/templates", files=IMAGE)).json()["id"]
    runner.more = {
        name: replace(runner.workflows[f"lego-tiny-{kind}"], name=name)
        for name, kind in (("own", "edit"), ("own-lora", "edit-lora"))
    }
    fields = {"prompt": "a", "lora": json.dumps([LORA]), "template": known, "model": "own"}
    answer = await client.post(URL, files={"mask": MASKED["mask"]}, data=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert runner.jobs == []
