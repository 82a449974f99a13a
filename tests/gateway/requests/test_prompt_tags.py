"""`<lora:NAME:0.8>` in a text: refused by name wherever a text goes to an encoder."""

import pytest

from tests.support.gateway.client import error_of, file_of, mask_of, registered

TEXT = "a cat <lora:stripes-r4:0.8>"


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
async def test_a_generation_says_where_adapters_belong(client, runner, field) -> None:
    """The message names the tag and shows the field with the adapter in it; no job is made."""
    answer = await client.post("/v1/images/generations", json={"prompt": "a"} | {field: TEXT})
    assert error_of(answer) == (400, "adapter_in_prompt", field)
    message = answer.json()["error"]["message"]
    assert "<lora:stripes-r4:...>" in message
    assert '`lora` instead: [{"name": "stripes-r4", "scale": 0.8}]' in message
    assert runner.jobs == []


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "caption"])
async def test_an_edit_says_it_too(client, runner, field) -> None:
    """Of every text that it has."""
    files = {"image": file_of(), "mask": mask_of()}
    answer = await client.post("/v1/images/edits", files=files, data={"prompt": "a"} | {field: TEXT})
    assert error_of(answer) == (400, "adapter_in_prompt", field)
    assert runner.jobs == []


async def test_templates_have_no_tags_in_their_texts(client) -> None:
    """Neither in the caption of an image, nor in what it is warmed for."""
    answer = await client.post("/v1/templates", files={"image": file_of()}, data={"caption": TEXT})
    assert error_of(answer) == (400, "adapter_in_prompt", "caption")
    card = await registered(client)
    for field in ("caption", "negative_prompt"):
        answer = await client.post(f"/v1/templates/{card['id']}/warm", json={field: TEXT})
        assert error_of(answer) == (400, "adapter_in_prompt", field)


async def test_other_angle_brackets_are_words(client, runner) -> None:
    """A prompt may compare and mark up."""
    prompt = "a < b, <b>lora</b>: <cat:1>"
    assert (await client.post("/v1/images/generations", json={"prompt": prompt})).status_code == 200
    assert runner.jobs[0].inputs["prompt"] == prompt
