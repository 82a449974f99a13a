"""`caption`: what an image shows, given with an edit or kept with a template; what primes, and what that takes."""

import json
from dataclasses import replace

import pytest

from lego_serve.core.workflow.graph import Input, Workflow
from lego_serve.errors import RequestError
from lego_serve.gateway.requests.schemas import MAX_PROMPT_CHARACTERS
from tests.support.gateway.client import error_of, file_of, files_in, mask_of, registered

URL, EDITS = "/v1/templates", "/v1/images/edits"

WORDS = "a black wall"
MASKED = {"image": file_of(), "mask": mask_of()}
PLAIN, ENTRY = 48 * 80, 48 * 100  # bytes, as the runner says: of rows alone, and with the text that guided edits read
BLANK = ["", "  \n"]


def without_captions(workflow: Workflow) -> Workflow:
    """The same, priming with the empty prompt whatever an image shows."""
    inputs = {name: declared for name, declared in workflow.inputs.items() if name != "caption"}
    arguments = dict(workflow.nodes["prime"].arguments) | {"prompt": ""}
    nodes = dict(workflow.nodes) | {"prime": replace(workflow.nodes["prime"], arguments=arguments)}
    return replace(workflow, inputs=inputs, nodes=nodes)


async def edited(client, **fields: str) -> None:
    """An edit that names what it is of, or else uploads it, and ends well."""
    files = {"mask": mask_of()} if "template" in fields else MASKED
    answer = await client.post(EDITS, files=files, data={"prompt": "a"} | fields)
    assert answer.status_code == 200, answer.text


def captions_of(runner) -> list[tuple[object, bool]]:
    """The caption of each job, and whether its edit counts as described."""
    return [(job.inputs["caption"], job.inputs["edit"].is_described) for job in runner.jobs]


async def test_a_caption_goes_to_what_primes(client, runner) -> None:
    """With adapters too, unchanged; without one, or with a blank one, the edit is not described."""
    await edited(client, caption=f" {WORDS}")
    await edited(client, caption=WORDS, lora='[{"name": "stripes"}]')
    await edited(client)
    for blank in BLANK:
        await edited(client, caption=blank)
    assert captions_of(runner) == [(f" {WORDS}", True), (WORDS, True), *[("", False)] * 3]
    assert [job.workflow for job in runner.jobs[:2]] == ["lego-tiny-edit", "lego-tiny-edit-lora"]


@pytest.mark.parametrize(
    ("files", "fields", "code"),
    [
        ({"image": file_of()}, {"caption": WORDS}, "invalid_value"),
        (MASKED, {"caption": "a" * (MAX_PROMPT_CHARACTERS + 1)}, "invalid_value"),
        (MASKED, {"caption": WORDS, "model": "own-edit"}, "unsupported_parameter"),
        (MASKED | {"caption": file_of()}, {}, "unsupported_parameter"),
        (MASKED, {"caption": [WORDS, WORDS]}, "duplicate_field"),
    ],
)
async def test_a_caption_that_cannot_be_is_refused_by_name(client, runner, files, fields, code) -> None:
    """Without a mask, too long, where the workflow takes none, as a file, and twice; no job is made."""
    runner.more = {"own-edit": replace(without_captions(runner.workflows["lego-tiny-edit"]), name="own-edit")}
    answer = await client.post(EDITS, files=files, data={"prompt": "a"} | fields)
    assert error_of(answer) == (400, code, "caption")
    assert runner.jobs == []


async def test_a_blank_caption_is_none_wherever_none_is_taken(client, runner) -> None:
    """Without a mask, and where the workflow has no such input."""
    runner.more = {"own-edit": replace(without_captions(runner.workflows["lego-tiny-edit"]), name="own-edit")}
    for blank in BLANK:
        data = {"prompt": "a", "caption": blank}
        assert (await client.post(EDITS, files={"image": file_of()}, data=data)).status_code == 200
        assert (await client.post(EDITS, files=MASKED, data=data | {"model": "own-edit"})).status_code == 200
    assert [job.workflow for job in runner.jobs] == ["lego-tiny-img2img", "own-edit"] * len(BLANK)
    assert not any("caption" in job.inputs for job in runner.jobs)


async def test_a_generation_has_no_caption(client) -> None:
    """It has no image yet."""
    answer = await client.post("/v1/images/generations", json={"prompt": "a", "caption": WORDS})
    assert error_of(answer) == (400, "unsupported_parameter", "caption")


async def test_what_the_encoder_refuses_is_told_as_the_caption(client, runner) -> None:
    """The words of a complaint about the workflow's input are the request's."""
    runner.error = RequestError("`caption` has 60 tokens.", param="caption", code="prompt_too_long")
    answer = await client.post(EDITS, files=MASKED, data={"prompt": "a", "caption": WORDS})
    assert error_of(answer) == (400, "prompt_too_long", "caption")


async def test_a_templates_caption_is_that_of_its_edits(client, runner) -> None:
    """Unless one has its own, and where the mask gives it a meaning; the card says it."""
    card = await registered(client, caption=WORDS)
    assert card["caption"] == WORDS
    assert (await client.get(f"{URL}/{card['id']}")).json()["caption"] == WORDS
    await edited(client, template=card["id"])
    await edited(client, template=card["id"], caption="black")
    await edited(client, template=card["id"], caption=" ")
    await edited(client, template=card["id"], lora='[{"name": "stripes"}]')
    assert captions_of(runner) == [(WORDS, True), ("black", True), (WORDS, True), (WORDS, True)]
    whole = runner.workflows["lego-tiny-img2img"]
    inputs = dict(whole.inputs) | {"caption": Input("text", default="")}
    form = {"prompt": (None, "a"), "template": (None, card["id"])}
    for named in (whole, replace(whole, inputs=inputs)):
        runner.more = {whole.name: named}
        assert (await client.post(EDITS, files=form)).status_code == 200
        assert not runner.jobs[-1].inputs.get("caption")
    plain = await registered(client, 5, caption=BLANK[1])
    assert plain["caption"] is None
    await edited(client, template=plain["id"])
    assert (runner.jobs[-1].inputs["caption"], runner.jobs[-1].inputs["edit"].is_described) == ("", False)


async def test_a_known_image_keeps_its_caption(client) -> None:
    """Another is refused; the same, a blank one or none is answered, and one cannot be added either."""
    await registered(client, caption=WORDS)
    await registered(client, 5)
    for shade, caption in ((0, "white"), (5, WORDS)):
        answer = await client.post(URL, files={"image": file_of(shade)}, data={"caption": caption})
        assert error_of(answer) == (409, "template_exists", "caption")
    for fields in ({}, {"caption": WORDS}, {"caption": " "}):
        answer = await client.post(URL, files={"image": file_of()}, data=fields)
        assert (answer.status_code, answer.json()["caption"]) == (200, WORDS)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"caption": "a" * (MAX_PROMPT_CHARACTERS + 1)}, "invalid_value"),
        ({"caption": WORDS, "model": "own-edit"}, "unsupported_parameter"),
    ],
)
async def test_a_template_is_not_registered_with_a_caption_that_cannot_be(
    client, runner, settings, fields, code
) -> None:
    """Too long, or for a workflow that takes none; nothing is kept."""
    runner.more = {"own-edit": replace(without_captions(runner.workflows["lego-tiny-edit"]), name="own-edit")}
    answer = await client.post(URL, files={"image": file_of()}, data=fields)
    assert error_of(answer) == (400, code, "caption")
    assert files_in(settings) == []


async def test_a_file_from_before_there_were_captions_is_a_template_without_one(client, runner, settings) -> None:
    """It is listed and edited as ever."""
    card = await registered(client)
    path = settings.templates.folder / "default" / f"{card['id']}.json"
    old = json.loads(path.read_text())
    assert old.pop("caption") is None
    path.write_text(json.dumps(old))
    assert (await client.get(URL)).json()["data"] == [card]
    await edited(client, template=card["id"])
    assert captions_of(runner) == [("", False)]


async def test_a_caption_is_left_out_once_its_workflow_takes_none(client, runner) -> None:
    """For no request has given it: the template is listed, warmed and edited as one without; a request's is refused."""
    runner.more = {"own-edit": replace(runner.workflows["lego-tiny-edit"], name="own-edit")}
    card = await registered(client, caption=WORDS, model="own-edit")
    runner.more = {"own-edit": without_captions(runner.more["own-edit"])}
    url = f"{URL}/{card['id']}"
    assert (await client.get(url)).json()["bytes_predicted"] == 20 * ENTRY
    assert (await client.post(f"{url}/warm", json={"wait": True})).status_code == 200
    await edited(client, template=card["id"])
    assert [("caption" in job.inputs, job.inputs["edit"].is_described) for job in runner.jobs] == [(False, False)] * 2
    for answer in (
        await client.post(f"{url}/warm", json={"caption": WORDS}),
        await client.post(
            EDITS, files={"mask": mask_of()}, data={"prompt": "a", "template": card["id"], "caption": "b"}
        ),
    ):
        assert error_of(answer) == (400, "unsupported_parameter", "caption")


async def test_warming_has_the_templates_caption_or_its_own(client, runner) -> None:
    """Also that of a registration, which a later one that says nothing has too."""
    card = await registered(client, caption=WORDS, warm="8")
    assert (await client.post(URL, files={"image": file_of()}, data={"warm": "true"})).status_code == 200
    plain = await registered(client, 5)
    for name, body in ((card["id"], {}), (card["id"], {"caption": "black"}), (plain["id"], {"caption": " "})):
        answer = await client.post(f"{URL}/{name}/warm", json=body | {"wait": True})
        assert answer.status_code == 200, answer.text
    wanted = [(WORDS, True), (WORDS, True), (WORDS, True), ("black", True), ("", False)]
    assert sorted(captions_of(runner), key=str) == sorted(wanted, key=str)
    for body, code in (({"caption": 1}, "invalid_type"), ({"caption": "a" * 32_001}, "invalid_value")):
        answer = await client.post(f"{URL}/{card['id']}/warm", json=body)
        assert error_of(answer) == (400, code, "caption")


async def test_a_caption_and_guidance_take_two_entries_a_step(client) -> None:
    """The caption's and the negative prompt's, which are one where the words are; a pin's room is counted by them."""
    card = await registered(client, caption=WORDS)
    assert (card["bytes_predicted"], card["fits"]) == (20 * (PLAIN + ENTRY), True)
    plain = await registered(client, 5)
    assert plain["bytes_predicted"] == 20 * ENTRY
    for name, body, each in (
        (card["id"], {}, PLAIN + ENTRY),
        (card["id"], {"guidance": 1.0}, PLAIN),
        (card["id"], {"negative_prompt": WORDS}, ENTRY),
        (plain["id"], {"caption": WORDS}, PLAIN + ENTRY),
        (plain["id"], {"caption": " "}, ENTRY),
    ):
        answer = await client.post(f"{URL}/{name}/warm", json=body | {"wait": True})
        assert answer.json()["bytes_predicted"] == 20 * each, body
    answer = await client.post(URL, files={"image": file_of(9)}, data={"pin": "true", "caption": WORDS})
    assert error_of(answer) == (409, "pins_full", "pin")
    assert "172800" in answer.json()["error"]["message"]
    await registered(client, 9, pin="true")
