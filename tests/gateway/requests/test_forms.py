"""Forms as browsers, libraries and SDKs write them: blank fields, files not chosen, and fields with brackets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.addons import AdapterRequest
from lego_serve.errors import RequestError
from lego_serve.gateway.requests.nested_fields import join_nested
from lego_serve.gateway.requests.schemas import EditRequest
from tests.support.gateway.client import error_of, file_of, mask_of

URL = "/v1/images/edits"
EDGE = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
OPTIONAL = sorted(set(EditRequest.model_fields) - {"prompt"})
NO_FILE = ('; filename=""\r\nContent-Type: application/octet-stream', b"")


async def posted(client, *parts: tuple[str, bytes | tuple[str, bytes]], url: str = URL):
    """The answer to a form put together by hand, of (name, text) and (name, (the rest of the head, content))."""
    body = b""
    for name, value in parts:
        rest, content = value if isinstance(value, tuple) else ("", value)
        body += f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + content + b"\r\n"
    headers = {"content-type": f"multipart/form-data; boundary={EDGE}"}
    return await client.post(url, content=body + f"--{EDGE}--\r\n".encode(), headers=headers)


def upload(content: bytes) -> tuple[str, bytes]:
    """A file that was chosen."""
    return '; filename="a.png"\r\nContent-Type: image/png', content


IMAGE, PROMPT = ("image", upload(file_of())), ("prompt", b"a")


@pytest.mark.parametrize("blank", [b"", b"  "])
async def test_a_blank_field_is_one_that_was_not_given(client, runner, blank) -> None:
    """Each alone, and all together with the files that were not chosen: the same job as without them."""
    for name in OPTIONAL:
        answer = await posted(client, IMAGE, PROMPT, (name, blank))
        assert (name, answer.status_code) == (name, 200)
    everything = [(name, blank) for name in OPTIONAL]
    assert (await posted(client, IMAGE, PROMPT, ("mask", NO_FILE), *everything)).status_code == 200
    assert (await posted(client, IMAGE, PROMPT, ("mask", blank))).status_code == 200
    assert {job.workflow for job in runner.jobs} == {"lego-tiny-img2img"}


async def test_what_is_needed_is_missed_where_it_is_blank(client, runner) -> None:
    """The prompt and the image; a field that there is not is refused, blank or not."""
    assert error_of(await posted(client, IMAGE, ("prompt", b""))) == (400, "invalid_value", "prompt")
    assert error_of(await posted(client, ("image", NO_FILE), PROMPT)) == (400, "missing", "image")
    assert error_of(await posted(client, IMAGE, PROMPT, ("promt", b""))) == (400, "unsupported_parameter", "promt")
    assert error_of(await posted(client, ("image", NO_FILE), url="/v1/templates")) == (400, "missing", "image")
    assert runner.jobs == []


async def test_a_template_is_registered_by_a_browsers_form(client) -> None:
    """With every field that it has, all blank."""
    fields = [(name, b"") for name in ("model", "size", "name", "caption", "pin", "warm")]
    assert (await posted(client, IMAGE, *fields, url="/v1/templates")).status_code == 201


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]"])
async def test_an_image_may_be_one_of_a_list(client, name) -> None:
    """As SDKs and libraries name it; a second one is refused by name."""
    assert (await posted(client, (name, upload(file_of())), PROMPT)).status_code == 200
    answer = await posted(client, (name, upload(file_of())), ("image[1]", upload(file_of())), PROMPT)
    assert error_of(answer) == (400, "invalid_value", "image")


@pytest.mark.parametrize(
    "fields",
    [
        [("lora", b'[{"name": "a", "scale": 0.5}, {"name": "b"}]')],
        [("lora[][name]", b"a"), ("lora[][scale]", b"0.5"), ("lora[][name]", b"b")],
        [("lora[0][name]", b"a"), ("lora[0][scale]", b"5e-1"), ("lora[1][name]", b"b"), ("lora[1][scale]", b"")],
        [("lora[1][name]", b"b"), ("lora[0][name]", b"a"), ("lora[0][scale]", b"0.5")],
        [("lora[0].name", b"a"), ("lora[0].scale", b"0.5"), ("lora[1].name", b"b")],
        [("lora.0.name", b"a"), ("lora.0.scale", b"0.5"), ("lora.1.name", b"b")],
        [("lora[]", b'{"name": "a", "scale": 0.5}'), ("lora[]", b'{"name": "b"}')],
        [("lora[1]", b'{"name": "b"}'), ("lora[0]", b'{"name": "a", "scale": 0.5}')],
        [("lora[]", b'{"name": "a", "scale": 0.5}'), ("lora[][name]", b"b")],
    ],
)
async def test_adapters_of_a_form_may_be_written_in_fields_of_their_own(client, runner, fields) -> None:
    """All that SDKs and libraries write for a list of objects is the same list."""
    answer = await posted(client, IMAGE, PROMPT, *fields)
    assert answer.status_code == 200, answer.text
    assert runner.jobs[0].inputs["lora"] == (AdapterRequest("a", 0.5), AdapterRequest("b", 1.0))


async def test_one_adapter_may_be_an_object(client, runner) -> None:
    """Its fields carry no index."""
    assert (await posted(client, IMAGE, PROMPT, ("lora[name]", b"1"), ("lora[end]", b"0.5"))).status_code == 200
    assert runner.jobs[0].inputs["lora"] == (AdapterRequest("1", 1.0, 0.0, 0.5),)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ([("lora[][scale]", b"1")], "missing", "lora[0].name"),
        ([("lora[][name]", b"a"), ("lora[][scale]", b"much")], "invalid_type", "lora[0].scale"),
        ([("lora[][name]", b"a"), ("lora[][foo]", b"1")], "unsupported_parameter", "lora[0].foo"),
        ([("lora[0][name]", b"a"), ("lora[0][name]", b"b")], "duplicate_field", "lora[0].name"),
        ([("lora[name]", b"a"), ("lora[name]", b"b")], "duplicate_field", "lora[0].name"),
        ([("lora", b"[]"), ("lora[][name]", b"b")], "duplicate_field", "lora"),
        ([("lora[]", b"{")], "invalid_json", "lora"),
        ([("lora[]", b'{"name": "a"}, {"name": "b"}')], "invalid_json", "lora"),
        ([("lora[]", b'{"name": "a"'), ("lora[]", b'"scale": 1}')], "invalid_json", "lora"),
        ([("lora[]", b'{"name": "a", "name": "b"}')], "duplicate_field", "lora[0].name"),
        ([("lora[0]", b'{"name": "a"}'), ("lora[0]", b'{"name": "b"}')], "duplicate_field", "lora[0]"),
        ([("lora[0]", b'{"name": "a"}'), ("lora[0][name]", b"b")], "duplicate_field", "lora[0].name"),
        ([("lora[]", b"[]," * 5000)], "invalid_json", "lora"),
        ([("lora[]", b"[" + b"0," * 3000 + b"0]")] * 2, "invalid_json", "lora"),
        ([("lora[]", b" " * 40_000 + b"{}")] * 2, "form_too_large", "lora"),
        ([("lora", b'[{"name": "a", "name": "b"}]')], "duplicate_field", "lora[0].name"),
        ([("lora", b"[" * 50)], "invalid_json", "lora"),
        ([("lora", b"[" + b"[]," * 5000 + b"[]]")], "invalid_json", "lora"),
        ([("foo[][bar]", b"1")], "unsupported_parameter", "foo[][bar]"),
        ([("size[]", b"96x96")], "unsupported_parameter", "size[]"),
        ([("foo[0]", upload(b""))], "unsupported_parameter", "foo[0]"),
        ([("lora", upload(b"[]"))], "unsupported_parameter", "lora"),
    ],
)
async def test_a_form_that_cannot_be_is_refused_by_the_fields_name(client, runner, fields, code, param) -> None:
    """The entry and its part are named as in JSON, other fields as they were written."""
    assert error_of(await posted(client, IMAGE, PROMPT, *fields)) == (400, code, param)
    assert runner.jobs == []


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"name": st.text(min_size=1)},
        optional={part: st.floats(-1e9, 1e9).map(float) for part in ("scale", "start", "end")},
    ),
    max_size=20,
)


@given(ENTRIES)
def test_what_is_taken_apart_is_joined_again(entries) -> None:
    """With indices, and with blank ones where every entry begins with its name."""
    indexed = [(f"lora[{i}][{part}]", str(value)) for i, entry in enumerate(entries) for part, value in entry.items()]
    first = [{"name": entry["name"]} | entry for entry in entries]
    blank = [(f"lora[][{part}]", str(value)) for entry in first for part, value in entry.items()]
    for nested in (indexed, blank):
        joined = join_nested(nested, {})
        assert json.loads(joined.get("lora", "[]")) == entries


@given(st.lists(st.tuples(st.from_regex(r"lora(\[[0-9]{0,2}\])?\[[a-z]{1,5}\]", fullmatch=True), st.text())))
def test_whatever_is_nested_is_joined_or_refused(nested) -> None:
    """Nothing else is raised."""
    try:
        joined = join_nested(nested, {})
    except RequestError:
        return
    assert all(isinstance(json.loads(text), list) for text in joined.values())


async def test_a_mask_that_was_chosen_stays(client, runner) -> None:
    """It has a name and bytes."""
    assert (await posted(client, IMAGE, PROMPT, ("mask", upload(mask_of())))).status_code == 200
    assert runner.jobs[0].workflow == "lego-tiny-edit"
