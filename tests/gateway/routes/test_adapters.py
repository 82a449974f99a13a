"""Adapters for operators: listed, shown, registered and removed; what is no request for that registers nothing."""

import pytest

from lego_serve.core.nodes.requests import ListAdapters, RegisterAdapter, RemoveAdapter, ShowAdapter

ADMIN = "/v1/admin/adapters"


async def test_an_operator_sees_the_files_that_are_passed_over(client) -> None:
    """Beside the adapters, with the reason."""
    assert (await client.get(ADMIN)).json()["passed_over"] == [
        {"path": "My Style.safetensors", "model": "lego-tiny", "reason": "Its name is no id: register it."}
    ]


async def test_an_operator_looks_at_one_adapter(client, runner) -> None:
    """What is known of it, or that there is none."""
    card = (await client.get(f"{ADMIN}/b", params={"model": "lego-tiny"})).json()
    assert card == {
        "id": "b", "object": "adapter", "model": "lego-tiny", "registered": True, "rank": 4, "bytes": 1000,
        "resident": ["lora", "backbone:r1"],
    }  # fmt: skip
    assert runner.adapter_requests == [("lego-tiny", ShowAdapter("b"))]
    assert (await client.get(f"{ADMIN}/nobody")).json()["error"]["code"] == "adapter_not_found"


async def test_an_operator_lists_registers_and_removes_adapters(client, runner) -> None:
    """What is ordered is passed on; a full registry is 429."""
    listed = (await client.get(ADMIN)).json()["data"]
    assert [(card["id"], card["model"], card["registered"]) for card in listed] == [
        ("a", "lego-tiny", False),
        ("b", "lego-tiny", True),
    ]
    assert (await client.post(ADMIN, json={"id": "a", "path": "x/a.safetensors"})).json()["registered"] is True
    assert (await client.post(ADMIN, json={"id": "taken", "path": "a"})).status_code == 429
    assert (await client.delete(f"{ADMIN}/a", params={"model": "m"})).json()["status"] == "removed"
    assert runner.adapter_requests == [
        (None, ListAdapters()),
        (None, RegisterAdapter("a", "x/a.safetensors")),
        (None, RegisterAdapter("taken", "a")),
        ("m", RemoveAdapter("a")),
    ]


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ('{"id": "a", "path": "b.safetensors", "id": "c"}', "id"),
        ('{"id": "a", "path": "b.safetensors", "path": "b.safetensors"}', "path"),
    ],
)
async def test_a_field_that_is_given_twice_registers_nothing(client, runner, text, param) -> None:
    """Not even where both say the same."""
    answer = await client.post(ADMIN, content=text.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("duplicate_field", param)
    assert runner.adapter_requests == []


@pytest.mark.parametrize("body", [{}, {"id": "a"}, {"id": 1, "path": "a"}, {"id": "a", "path": "a", "url": "b"}, []])
async def test_a_body_that_registers_nothing_is_refused(client, runner, body) -> None:
    """Before the LoRA node is asked; so is a body of another type, such as an upload."""
    assert (await client.post(ADMIN, json=body)).status_code == 400
    answer = await client.post(ADMIN, files={"file": ("a.zip", b"PK")}, data={"id": "a"})
    assert answer.status_code == 415
    assert runner.adapter_requests == []
