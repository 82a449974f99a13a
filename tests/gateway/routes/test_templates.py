"""/v1/templates, and edits of what was registered there."""

from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from lego_serve.core.nodes.requests import ForgetTemplate, MeasureTemplate
from lego_serve.errors import NodeError
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import another, error_of, file_of, files_in, mask_of, registered

URL, EDITS = "/v1/templates", "/v1/images/edits"


async def test_an_image_is_registered_once(client, settings) -> None:
    """With its size, what its activations will take, and the same id the second time, whatever its file's format."""
    card = await registered(client, name="a-1")
    assert card["id"].startswith("tmpl_")
    # 48 tokens of 100 bytes, 20 steps, and one priming for both branches: the workflow's other prompt is empty too.
    assert {key: card[key] for key in ("object", "name", "width", "height", "model", "pinned")} == {
        "object": "template", "name": "a-1", "width": 128, "height": 96, "model": "lego-tiny", "pinned": False,
    }  # fmt: skip
    assert (card["bytes_predicted"], card["fits"]) == (48 * 100 * 20, True)
    again = await client.post(URL, files={"image": file_of(form="WEBP")})
    assert (again.status_code, again.json()) == (200, card)
    assert files_in(settings) == [f"{card['id']}.json", f"{card['id']}.png"]
    other = await registered(client, size="96x96")
    assert other["id"] != card["id"]
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
    assert isinstance(runner.template_requests[-1], ForgetTemplate)
    for answer in (await client.get(f"{URL}/{first['id']}"), await client.delete(f"{URL}/{first['id']}")):
        assert error_of(answer) == (404, "template_not_found", "template")
    assert [card["id"] for card in (await client.get(URL)).json()["data"]] == [second["id"]]
    assert files_in(settings) == [f"{second['id']}.json", f"{second['id']}.png"]


async def test_what_is_registered_outlives_the_gateway(client, runner, settings) -> None:
    """Another process over the same folder has it, and edits it."""
    card = await registered(client, 7)
    later = create_app(runner, runner, settings, Metrics())
    transport = httpx2.ASGITransport(later, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://later") as other:
        assert (await other.get(URL)).json()["data"] == [card]
        data = {"prompt": "a", "template": card["id"]}
        assert (await other.post(EDITS, files={"mask": mask_of()}, data=data)).status_code == 200


async def test_removing_goes_on_where_a_replica_does_not_answer(client, runner) -> None:
    """The template is gone for its owner; the log says what may be left."""
    card = await registered(client)
    runner.template_error = NodeError("gone", code="replica_lost")
    assert (await client.delete(f"{URL}/{card['id']}")).status_code == 204
    assert (await client.get(f"{URL}/{card['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("files", "fields", "code", "param"),
    [
        ({}, {"name": "a"}, "missing", "image"),
        ({"image": b"not an image"}, {}, "invalid_image", "image"),
        ({"image": file_of()[:40]}, {}, "invalid_image", "image"),
        ({"image": file_of(size=(8000, 8000))}, {}, "invalid_image", "image"),
        ({"image": file_of(mode="I;16")}, {}, "invalid_image", "image"),
        ({"image": file_of(form="GIF")}, {}, "invalid_image", "image"),
        ({"image": file_of(), "mask": mask_of()}, {}, "unsupported_parameter", "mask"),
        ({"image": file_of()}, {"name": "\u00e9"}, "invalid_value", "name"),
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
    card = await registered(client, warm="100")
    assert (card["bytes_predicted"], card["fits"]) == (48 * 100 * 100, False)


async def test_an_edit_names_a_template_in_place_of_its_image(client, runner) -> None:
    """It has the template's pixels and size, its pin, and the key that an edit of the uploaded image has."""
    card = await registered(client, 3, pin="true")
    data = {"prompt": "a", "template": card["id"]}
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
        ({"mask": mask_of()}, {"template": ""}, (400, "missing", "image")),
    ],
)
async def test_edits_that_do_not_go_with_their_template_are_refused(client, runner, files, fields, wanted) -> None:
    """Exactly one of image and template, a mask of its size, no other size, and an id that is there."""
    card = await registered(client)
    answer = await client.post(EDITS, files=files, data={"prompt": "a", "template": card["id"]} | fields)
    assert (None if answer.status_code == 200 else error_of(answer)) == wanted
    assert len(runner.jobs) == (wanted is None)


async def test_the_template_of_another_model_is_refused(client, runner) -> None:
    """For its activations are not this model's."""
    card = await registered(client)
    edit = runner.workflows["lego-tiny-edit"]
    runner.more = {"own-edit": replace(edit, name="own-edit")}
    data = {"prompt": "a", "template": card["id"], "model": "own-edit"}
    assert error_of(await client.post(EDITS, files={"mask": mask_of()}, data=data)) == (400, "invalid_value", "model")


async def test_a_damaged_file_is_as_none_and_is_replaced(client, settings) -> None:
    """It is not listed, and the image can be registered anew; what a dead process left is cleared away."""
    card = await registered(client)
    folder: Path = settings.templates.folder / "default"
    (folder / f"{card['id']}.json").write_text("{")
    (folder / "tmpl_0.png.new").write_bytes(b"x")
    (folder / ("tmpl_" + "1" * 24 + ".png")).write_bytes(b"x")
    assert (await client.get(URL)).json()["data"] == []
    assert (await registered(client))["id"] == card["id"]
    assert files_in(settings) == [f"{card['id']}.json", f"{card['id']}.png"]


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
    assert runner.template_requests == [MeasureTemplate(128, 96)]


async def test_a_caption_that_the_model_cannot_read_is_refused_before_anything_is_kept(client, settings) -> None:
    """The text encoder says so at once, not the first edit that needs it."""
    answer = await client.post(URL, files={"image": file_of()}, data={"caption": "word " * 101})
    assert error_of(answer) == (400, "prompt_too_long", "caption")
    assert files_in(settings) == []
    await registered(client, caption="word " * 99)
