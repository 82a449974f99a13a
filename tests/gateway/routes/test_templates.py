"""/v1/templates, and edits of what was registered there."""

import asyncio
import io
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.editing.templates import TemplateCommand, owner_of
from lego_serve.errors import NodeError
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics

URL, EDITS = "/v1/templates", "/v1/images/edits"
TENANTS = ("anna", "otto")


def file_of(shade: int = 0, size: tuple[int, int] = (128, 96), form: str = "PNG", mode: str = "RGB") -> bytes:
    """An image, told from others by its shade."""
    out = io.BytesIO()
    Image.new(mode, size, shade).save(out, form)
    return out.getvalue()


def mask_of(size: tuple[int, int] = (128, 96)) -> bytes:
    """A mask that is transparent in its upper left."""
    alpha = np.full((size[1], size[0]), 255, np.uint8)
    alpha[:32, :32] = 0
    out = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha])).save(out, "PNG")
    return out.getvalue()


async def registered(client: httpx2.AsyncClient, shade: int = 0, **fields: str) -> dict[str, Any]:
    """What is said of an image that is registered now."""
    answer = await client.post(URL, files={"image": file_of(shade)}, data=fields)
    assert answer.status_code == 201, answer.text
    said: dict[str, Any] = answer.json()
    return said


def error_of(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def files_in(settings: GatewaySettings) -> list[str]:
    """The names of all files of templates."""
    assert settings.templates is not None
    return sorted(path.name for path in settings.templates.folder.glob("*/*") if path.name != "lock")


async def test_an_image_is_registered_once(client, settings) -> None:
    """With its size, what its activations will take, and the same id the second time, whatever its file's format."""
    said = await registered(client, name="a-1")
    assert said["id"].startswith("tmpl_")
    # 48 tokens of 100 bytes, 20 steps, and one priming for both branches: the workflow's other prompt is empty too.
    assert {key: said[key] for key in ("object", "name", "width", "height", "model", "pinned")} == {
        "object": "template", "name": "a-1", "width": 128, "height": 96, "model": "lego-tiny", "pinned": False,
    }  # fmt: skip
    assert (said["bytes_predicted"], said["fits"]) == (48 * 100 * 20, True)
    again = await client.post(URL, files={"image": file_of(form="WEBP")})
    assert (again.status_code, again.json()) == (200, said)
    assert files_in(settings) == [f"{said['id']}.json", f"{said['id']}.png"]
    other = await registered(client, size="96x96")
    assert other["id"] != said["id"]
    assert other["name"] == f"template-{other['id'][-8:]}"


async def test_templates_are_listed_shown_and_removed(client, runner, settings) -> None:
    """One tells which replicas keep how much of it; once removed it is known nowhere, and replicas were told."""
    first, second = await registered(client), await registered(client, 9)
    listed = (await client.get(URL)).json()
    assert listed["object"] == "list"
    assert sorted(card["id"] for card in listed["data"]) == sorted([first["id"], second["id"]])
    shown = (await client.get(f"{URL}/{first['id']}")).json()
    assert shown == first | {"replicas": [{"id": "r2", "bytes": 5000}]}
    gone = await client.delete(f"{URL}/{first['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert runner.template_orders[-1].verb == "forget"
    for answer in (await client.get(f"{URL}/{first['id']}"), await client.delete(f"{URL}/{first['id']}")):
        assert error_of(answer) == (404, "template_not_found", "template")
    assert [card["id"] for card in (await client.get(URL)).json()["data"]] == [second["id"]]
    assert files_in(settings) == [f"{second['id']}.json", f"{second['id']}.png"]


async def test_what_is_registered_outlives_the_gateway(client, runner, settings) -> None:
    """Another process over the same folder has it, and edits it."""
    said = await registered(client, 7)
    later = create_app(runner, settings, Metrics())
    transport = httpx2.ASGITransport(later, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://later") as other:
        assert (await other.get(URL)).json()["data"] == [said]
        data = {"prompt": "a", "template": said["id"]}
        assert (await other.post(EDITS, files={"mask": mask_of()}, data=data)).status_code == 200


async def test_removing_goes_on_where_a_replica_does_not_answer(client, runner) -> None:
    """The template is gone for its owner; the log says what may be left."""
    said = await registered(client)
    runner.template_error = NodeError("gone", code="replica_lost")
    assert (await client.delete(f"{URL}/{said['id']}")).status_code == 204
    assert (await client.get(f"{URL}/{said['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("files", "fields", "code", "param"),
    [
        ({}, {"name": "a"}, "missing", "image"),
        ({"image": b"not an image"}, {}, "invalid_image", "image"),
        ({"image": file_of()[:40]}, {}, "invalid_image", "image"),
        ({"image": file_of(size=(5000, 5000))}, {}, "invalid_image", "image"),
        ({"image": file_of(mode="I;16")}, {}, "invalid_image", "image"),
        ({"image": file_of(form="GIF")}, {}, "invalid_image", "image"),
        ({"image": file_of(), "mask": mask_of()}, {}, "unsupported_parameter", "mask"),
        ({"image": file_of()}, {"name": ""}, "invalid_value", "name"),
        ({"image": file_of()}, {"name": "../up"}, "invalid_value", "name"),
        ({"image": file_of()}, {"name": "A"}, "invalid_value", "name"),
        ({"image": file_of()}, {"name": "a" * 65}, "invalid_value", "name"),
        ({"image": file_of()}, {"size": "100x100"}, "invalid_value", "size"),
        ({"image": file_of()}, {"size": "512x512"}, "out_of_range", "size"),
        ({"image": file_of()}, {"pin": "perhaps"}, "invalid_type", "pin"),
        ({"image": file_of()}, {"warm": "0"}, "invalid_value", "warm"),
        ({"image": file_of()}, {"warm": "yes"}, "invalid_value", "warm"),
        ({"image": file_of()}, {"warm": "150"}, "out_of_range", "warm"),
        ({"image": file_of()}, {"model": "lego-tiny-img2img"}, "unsupported_parameter", "model"),
        ({"image": file_of()}, {"foo": "1"}, "unsupported_parameter", "foo"),
    ],
)
async def test_a_wrong_form_is_refused_by_name_and_leaves_nothing(
    client, runner, settings, files, fields, code, param
) -> None:
    """Each mistake has its code and field; no file is written and no job made."""
    answer = await client.post(URL, files=files or {"name": (None, "a")}, data=fields if files else None)
    assert error_of(answer) == (400, code, param)
    assert files_in(settings) == []
    assert runner.jobs == []


async def test_an_unknown_model_and_another_body_are_refused(client) -> None:
    """404 and 415."""
    answer = await client.post(URL, files={"image": file_of()}, data={"model": "nope"})
    assert error_of(answer) == (404, "model_not_found", "model")
    assert (await client.post(URL, json={"image": "x"})).status_code == 415


async def test_no_more_are_kept_than_are_allowed(client, runner, settings) -> None:
    """The refusal says the numbers, is no reason to try again, and leaves nothing; a known one is still answered."""
    for shade in range(3):
        await registered(client, shade)
    before = files_in(settings)
    answer = await client.post(URL, files={"image": file_of(77)})
    assert error_of(answer) == (409, "too_many_templates", None)
    assert "no more than 3" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert files_in(settings) == before
    assert (await client.post(URL, files={"image": file_of(2)})).status_code == 200
    tight = replace(settings, templates=replace(settings.templates, per_tenant=9, tenant_bytes=600))
    async with another(runner, tight) as other:
        answer = await other.post(URL, files={"image": file_of(77)})
    assert error_of(answer) == (409, "templates_too_large", None)
    assert "600" in answer.json()["error"]["message"]
    assert files_in(settings) == before


async def test_pins_are_bounded_by_half_of_a_replicas_bytes(client, settings) -> None:
    """96,000 bytes of 150,000 fit once; the second is told so with numbers, until the first is removed."""
    first = await registered(client, pin="true")
    assert first["pinned"]
    before = files_in(settings)
    answer = await client.post(URL, files={"image": file_of(5)}, data={"pin": "true"})
    assert error_of(answer) == (409, "pins_full", "pin")
    assert all(number in answer.json()["error"]["message"] for number in ("96000", "150000", "300000"))
    assert files_in(settings) == before
    assert (await client.delete(f"{URL}/{first['id']}")).status_code == 204
    await registered(client, 5, pin="true")


async def test_one_tenant_cannot_pin_what_is_there_for_all(runner, settings) -> None:
    """96,000 bytes fit into a part of 100,000 once; another tenant has a part of its own, and both are within half."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, False) for name in TENANTS)
    roomy = replace(settings.templates, budgets={"lego-tiny": 400_000}, tenant_pins={"lego-tiny": 100_000})
    closed = replace(settings, keys=keys, templates=roomy)
    async with another(runner, closed, "anna") as anna, another(runner, closed, "otto") as otto:
        first = await registered(anna, pin="true")
        answer = await anna.post(URL, files={"image": file_of(5)}, data={"pin": "true"})
        assert error_of(answer) == (409, "pins_full", "pin")
        said = answer.json()["error"]["message"]
        assert said.startswith("Your pinned templates of this model take 96000 bytes and this one 96000")
        assert "100000" in said
        assert "400000" in said
        await registered(anna, 5)
        his = await registered(otto, 5, pin="true")
        for client, card in ((anna, first), (otto, his)):
            data = {"prompt": "a", "template": card["id"]}
            assert (await client.post(EDITS, files={"mask": mask_of()}, data=data)).status_code == 200
        assert (await anna.delete(f"{URL}/{first['id']}")).status_code == 204
        await registered(anna, 6, pin="true")
    owners = {owner_of(job.inputs["edit"].pin) for job in runner.jobs}
    assert len(owners) == 2
    assert not owners & set(TENANTS)


async def test_parts_that_are_larger_than_what_there_is_together_end_at_half(runner, settings) -> None:
    """Where an operator gives more than fair, who comes first has it, and who comes late is told of all."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, False) for name in TENANTS)
    closed = replace(settings, keys=keys, templates=replace(settings.templates, tenant_pins={"lego-tiny": 10**9}))
    async with another(runner, closed, "anna") as anna, another(runner, closed, "otto") as otto:
        await registered(anna, pin="true")
        answer = await otto.post(URL, files={"image": file_of(5)}, data={"pin": "true"})
    assert error_of(answer) == (409, "pins_full", "pin")
    assert answer.json()["error"]["message"].startswith("All tenants' pinned templates of this model take 96000")


async def test_a_known_image_is_not_quietly_changed(client) -> None:
    """Another name or pin is refused; the same, or none, is answered."""
    await registered(client, name="a")
    for fields, param in (({"name": "b"}, "name"), ({"pin": "true"}, "pin")):
        answer = await client.post(URL, files={"image": file_of()}, data=fields)
        assert error_of(answer) == (409, "template_exists", param)
    for fields in ({}, {"name": "a"}, {"pin": "false"}):
        assert (await client.post(URL, files={"image": file_of()}, data=fields)).status_code == 200


async def test_a_template_too_large_for_a_replica_says_so(client) -> None:
    """Its steps times its tokens are above the 300,000 bytes that one keeps."""
    said = await registered(client, warm="100")
    assert (said["bytes_predicted"], said["fits"]) == (48 * 100 * 100, False)


async def test_an_edit_names_a_template_in_place_of_its_image(client, runner) -> None:
    """It has the template's pixels and size, its pin, and the key that an edit of the uploaded image has."""
    said = await registered(client, 3, pin="true")
    data = {"prompt": "a", "template": said["id"]}
    assert (await client.post(EDITS, files={"mask": mask_of()}, data=data)).status_code == 200
    uploaded = {"image": file_of(3), "mask": mask_of()}
    assert (await client.post(EDITS, files=uploaded, data={"prompt": "a"})).status_code == 200
    mine, theirs = (job.inputs["edit"] for job in runner.jobs)
    assert (mine.pixels.shape, int(mine.pixels[0, 0, 0])) == ((96, 128, 3), 3)
    assert mine.image == theirs.image
    assert (bool(mine.pin), theirs.pin) == (True, "")
    form = {name: (None, value) for name, value in data.items()}
    assert (await client.post(EDITS, files=form)).status_code == 200
    assert runner.jobs[-1].workflow == "lego-tiny-img2img"


@pytest.mark.parametrize(
    ("files", "fields", "wanted"),
    [
        ({"image": file_of(), "mask": mask_of()}, {}, (400, "invalid_value", "template")),
        ({"mask": mask_of((96, 96))}, {}, (400, "invalid_image", "mask")),
        ({"mask": mask_of()}, {"size": "96x96"}, (400, "invalid_value", "size")),
        ({"mask": mask_of()}, {"size": "128x96"}, None),
        ({"mask": mask_of()}, {"template": "tmpl_" + "0" * 24}, (404, "template_not_found", "template")),
        ({"mask": mask_of()}, {"template": "../../etc/passwd"}, (404, "template_not_found", "template")),
        ({"mask": mask_of()}, {"template": "\u00e9"}, (404, "template_not_found", "template")),
        ({"mask": mask_of()}, {"template": ""}, (400, "invalid_value", "template")),
    ],
)
async def test_edits_that_do_not_go_with_their_template_are_refused(client, runner, files, fields, wanted) -> None:
    """Exactly one of image and template, a mask of its size, no other size, and an id that is there."""
    said = await registered(client)
    answer = await client.post(EDITS, files=files, data={"prompt": "a", "template": said["id"]} | fields)
    assert (None if answer.status_code == 200 else error_of(answer)) == wanted
    assert len(runner.jobs) == (wanted is None)


async def test_the_template_of_another_model_is_refused(client, runner) -> None:
    """For its activations are not this model's."""
    said = await registered(client)
    edit = runner.workflows["lego-tiny-edit"]
    runner.more = {"own-edit": replace(edit, name="own-edit")}
    data = {"prompt": "a", "template": said["id"], "model": "own-edit"}
    assert error_of(await client.post(EDITS, files={"mask": mask_of()}, data=data)) == (400, "invalid_value", "model")


def another(runner, settings: GatewaySettings, token: str = "") -> httpx2.AsyncClient:
    """A client of a gateway of its own."""
    transport = httpx2.ASGITransport(create_app(runner, settings, Metrics()), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)


async def test_tenants_see_their_own_alone(runner, settings) -> None:
    """Another's id is answered as one that nobody has; the same image is two templates, with activations apart."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, False) for name in TENANTS)
    closed = replace(settings, keys=keys)
    async with another(runner, closed, "anna") as anna, another(runner, closed, "otto") as otto:
        hers = await registered(anna)
        unknown = "tmpl_" + "0" * 24
        for name in (hers["id"], unknown):
            edit = {"files": {"mask": mask_of()}, "data": {"prompt": "a", "template": name}}
            answers = [
                await otto.get(f"{URL}/{name}"),
                await otto.delete(f"{URL}/{name}"),
                await otto.post(f"{URL}/{name}/warm"),
                await otto.post(EDITS, **edit),
            ]
            assert {answer.text for answer in answers} == {answers[0].text}
            assert {answer.status_code for answer in answers} == {404}
        assert (await otto.get(URL)).json()["data"] == []
        his = await registered(otto)
        assert his["id"] != hers["id"]
        for client, card in ((anna, hers), (otto, his)):
            data = {"prompt": "a", "template": card["id"]}
            assert (await client.post(EDITS, files={"mask": mask_of()}, data=data)).status_code == 200
        assert len({job.inputs["edit"].image for job in runner.jobs}) == 2
        assert (await otto.delete(f"{URL}/{his['id']}")).status_code == 204
        assert (await anna.get(f"{URL}/{hers['id']}")).status_code == 200
        async with another(runner, closed) as nobody:
            assert (await nobody.get(URL)).status_code == 401


async def test_warming_is_an_edit_of_one_token(client, runner) -> None:
    """With the steps, guidance and sampler that are asked for; whoever waits hears how many passes it took."""
    said = await registered(client, pin="true")
    runner.reuse = ReuseStats("high", 8, 8, 1, 48, 8)
    body = {"steps": 8, "guidance": 2.5, "sampler": "dpmpp_2m", "wait": True}
    answer = await client.post(f"{URL}/{said['id']}/warm", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "id": said["id"],
            "object": "template.warming",
            "bytes_predicted": 48 * 100 * 8,
            "status": "done",
            "primed": 8,
        },
    )
    [job] = runner.jobs
    assert job.workflow == "lego-tiny-edit"
    wanted = {"steps": 8, "guidance": 2.5, "sampler": "dpmpp_2m", "strength": 1.0, "n": 1, "width": 128, "height": 96}
    assert {name: job.inputs[name] for name in wanted} == wanted
    edit: Any = job.inputs["edit"]
    assert int(np.count_nonzero(edit.weight)) == 16 * 16
    assert edit.pin


async def test_a_negative_prompt_of_their_own_takes_edits_a_second_priming(client) -> None:
    """As long as there is guidance to need it: its entries have the text's rows, the others do not."""
    said = await registered(client)
    found = {}
    for guidance in (1.0, 4.0):
        body = {"negative_prompt": "blue", "guidance": guidance, "wait": True}
        found[guidance] = (await client.post(f"{URL}/{said['id']}/warm", json=body)).json()["bytes_predicted"]
    assert found == {1.0: 48 * 80 * 20, 4.0: 48 * (80 + 100) * 20}


async def test_warming_in_the_background_is_answered_at_once(client, runner) -> None:
    """202 while it runs, after a registration too; nobody need stay."""
    runner.gate = asyncio.Event()
    said = await registered(client, warm="8")
    answer = await client.post(f"{URL}/{said['id']}/warm")
    assert (answer.status_code, answer.json()["status"]) == (202, "started")
    while len(runner.waiting) < 2:
        await asyncio.sleep(0)
    assert [job.inputs["steps"] for job in runner.waiting] == [8, 20]
    assert runner.jobs[0].tenant == "default"
    refused = await client.post(f"{URL}/{said['id']}/warm")
    assert error_of(refused)[:2] == (429, "over_capacity")
    full = await client.post(URL, files={"image": file_of(8)}, data={"warm": "true"})
    assert error_of(full)[:2] == (429, "over_capacity")
    assert [card["id"] for card in (await client.get(URL)).json()["data"]] == [said["id"]]
    runner.gate.set()
    while runner.waiting:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"steps": 0}, "out_of_range", "steps"),
        ({"steps": 150}, "out_of_range", "steps"),
        ({"steps": "8"}, "invalid_type", "steps"),
        ({"guidance": 21}, "out_of_range", "guidance"),
        ({"sampler": "nope"}, "invalid_value", "sampler"),
        ({"wait": 1}, "invalid_type", "wait"),
        ({"foo": 1}, "unsupported_parameter", "foo"),
    ],
)
async def test_what_cannot_be_warmed_for_is_refused(client, runner, body, code, param) -> None:
    """By name, and no job is made."""
    said = await registered(client)
    answer = await client.post(f"{URL}/{said['id']}/warm", json=body)
    assert error_of(answer) == (400, code, param)
    assert runner.jobs == []


async def test_a_damaged_file_is_as_none_and_is_replaced(client, settings) -> None:
    """It is not listed, and the image can be registered anew; what a dead process left is cleared away."""
    said = await registered(client)
    folder: Path = settings.templates.folder / "default"
    (folder / f"{said['id']}.json").write_text("{")
    (folder / "tmpl_0.png.new").write_bytes(b"x")
    (folder / ("tmpl_" + "1" * 24 + ".png")).write_bytes(b"x")
    assert (await client.get(URL)).json()["data"] == []
    assert (await registered(client))["id"] == said["id"]
    assert files_in(settings) == [f"{said['id']}.json", f"{said['id']}.png"]


async def test_a_folder_that_cannot_be_written_is_our_fault_and_leaves_nothing(runner, settings, tmp_path) -> None:
    """500 with a code; the path is not told."""
    (tmp_path / "file").write_text("")
    broken = replace(settings, templates=TemplateSettings(tmp_path / "file" / "templates", 3, 1000))
    async with another(runner, broken) as client:
        answer = await client.post(URL, files={"image": file_of()})
    assert error_of(answer) == (500, "template_not_written", None)
    assert "file" not in answer.json()["error"]["message"]


async def test_a_server_without_templates_has_no_such_route(runner) -> None:
    """And an edit that names one finds none."""
    async with another(runner, GatewaySettings("lego-tiny")) as client:
        assert (await client.get(URL)).json()["error"]["code"] == "route_not_found"
        data = {"prompt": "a", "template": "tmpl_" + "0" * 24}
        answer = await client.post(EDITS, files={"mask": mask_of()}, data=data)
    assert error_of(answer) == (404, "template_not_found", "template")


async def test_replicas_are_asked_once_for_each_size(client, runner) -> None:
    """What an entry takes does not change while they run."""
    for shade in range(3):
        await registered(client, shade)
    await client.get(URL)
    wanted = [TemplateCommand(verb, "lego-tiny", "128x96") for verb in ("rows", "entry", "text")]
    assert runner.template_orders == wanted
