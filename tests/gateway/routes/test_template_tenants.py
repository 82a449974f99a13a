"""What tenants have of templates: their own alone, and bounded numbers, bytes and pins."""

from dataclasses import replace
from hashlib import sha256

from lego_serve.core.editing.templates import owner_of
from lego_serve.gateway.settings import ApiKey
from tests.support.gateway.client import another, error_of, file_of, files_in, mask_of, registered

URL, EDITS = "/v1/templates", "/v1/images/edits"
TENANTS = ("anna", "otto")


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
        message = answer.json()["error"]["message"]
        assert message.startswith("Your pinned templates of this model take 96000 bytes and this one 96000")
        assert "100000" in message
        assert "400000" in message
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


async def test_a_caption_is_checked_as_its_tenants_own_work(runner, settings) -> None:
    """In that tenant's turn at the text encoder and by the weight of its key, as the edits of the template are."""
    keys = tuple(
        ApiKey(sha256(name.encode()).hexdigest(), name, False, weight)
        for name, weight in zip(TENANTS, (1.0, 3.0), strict=True)
    )
    closed = replace(settings, keys=keys)
    async with another(runner, closed, "anna") as anna, another(runner, closed, "otto") as otto:
        await registered(otto, caption="a red circle")
        await registered(anna, caption="a red circle")
        await registered(anna, 5)
    assert runner.checks == [("otto", 3.0), ("anna", 1.0)]
