"""Messages about ended jobs go from the outbox to their receivers."""

import asyncio
import json
import time
from dataclasses import replace

import openai
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from lego_serve.core.durable_jobs.outbox import RETRY_AFTER_S
from lego_serve.core.durable_jobs.receivers import ReceiverRules
from lego_serve.errors import StoreUnavailable
from lego_serve.webhooks.sender import HOLD_S, Outcome, WebhookSender
from lego_serve.webhooks.settings import WebhookSettings
from tests.support.webhooks.receiver import receiving
from tests.support.webhooks.sending import NEW_SECRET, OLD_SECRET, SECRETS, sending, until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_receivers_verify_a_message_with_the_libraries_they_have() -> None:
    """Those of Standard Webhooks and of OpenAI take it, and refuse it when one letter is another."""
    async with receiving() as receiver, sending(receiver.address) as running:
        job = await running.end_job(1, f"http://{receiver.address}/hook?token=1", traceparent=TRACE)
        assert await running.told(1) == [Outcome.DELIVERED]
        (got,) = receiver.got
    verified = Webhook(NEW_SECRET).verify(got.body, got.headers)
    openai.OpenAI(api_key="none").webhooks.verify_signature(got.body, got.headers, secret=NEW_SECRET)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW_SECRET).verify(got.body.replace(b"cancelled", b"completed"), got.headers)
    place = f"https://images.example/v1/jobs/{job.id}"
    assert verified["type"] == "job.cancelled"
    assert verified["timestamp"].endswith("Z")
    assert verified["data"] == {
        "id": job.id,
        "status": "cancelled",
        "urls": {"self": place, "events": f"{place}/events", "result": f"{place}/result", "cancel": f"{place}/cancel"},
    }
    assert got.line == "POST /hook?token=1 HTTP/1.1"
    assert got.headers["traceparent"] == TRACE
    assert (got.headers["host"], got.headers["content-type"]) == (receiver.address, "application/json")
    assert got.headers["webhook-id"] == f"msg_{job.id}_cancelled"


async def test_every_secret_of_a_tenant_signs() -> None:
    """So that a receiver may change from the old to the new one whenever it likes."""
    both = {"default": (NEW_SECRET, OLD_SECRET)}
    async with receiving() as receiver, sending(receiver.address, secrets=both) as running:
        await running.end_job(1, f"http://{receiver.address}/")
        await running.told(1)
        (got,) = receiver.got
    for secret in both["default"]:
        Webhook(secret).verify(got.body, got.headers)


async def test_a_tenants_messages_have_its_own_signature() -> None:
    """Nobody can make messages of another tenant with the secret of their own."""
    async with receiving() as receiver, sending(receiver.address) as running:
        await running.end_job(1, f"http://{receiver.address}/", tenant="other")
        await running.told(1)
        (got,) = receiver.got
    Webhook(OLD_SECRET).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW_SECRET).verify(got.body, got.headers)


async def test_what_is_no_traceparent_is_not_sent_on() -> None:
    """A caller's header does not become part of a message unless it is what it says."""
    async with receiving() as receiver, sending(receiver.address) as running:
        await running.end_job(1, f"http://{receiver.address}/", traceparent="00-x\r\nx-evil: 1")
        await running.told(1)
        assert not {"traceparent", "x-evil"} & receiver.got[0].headers.keys()


async def test_a_message_keeps_its_id_over_all_its_tries() -> None:
    """Ten of them at the times of the schedule, with one body; then it is given up."""
    async with receiving([500, 302, 404, 429, 503]) as receiver, sending(receiver.address) as running:
        await running.end_job(1, f"http://{receiver.address}/")
        for tries, wait_s in enumerate(RETRY_AFTER_S, start=1):
            assert len(await running.told(tries)) == len(receiver.got) == tries
            running.move_on(wait_s - 1.0)
            await asyncio.sleep(0.01)
            assert len(receiver.got) == tries
            running.move_on(1.0)
        assert (await running.told(10))[-2:] == [Outcome.POSTPONED, Outcome.GIVEN_UP]
        running.move_on(10 * RETRY_AFTER_S[-1])
        await asyncio.sleep(0.02)
        assert len(receiver.got) == 10
        assert len({(got.headers["webhook-id"], got.body) for got in receiver.got}) == 1


async def test_a_receiver_that_is_gone_hears_no_more() -> None:
    """410 ends a message at its first try."""
    async with receiving([410]) as receiver, sending(receiver.address) as running:
        await running.end_job(1, f"http://{receiver.address}/")
        assert await running.told(1) == [Outcome.GONE]
        assert await running.store.take_outbox(10, 0.0) == []


async def test_a_redirect_is_not_followed() -> None:
    """It counts as a failure: where it leads was not checked."""
    async with receiving() as aim, receiving([307], [f"location: http://{aim.address}/"]) as receiver:
        async with sending(receiver.address, aim.address) as running:
            await running.end_job(1, f"http://{receiver.address}/")
            assert await running.told(1) == [Outcome.POSTPONED]
        assert aim.connections == 0


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would connect to whatever the name means to it."""
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        async with sending(receiver.address) as running:
            await running.end_job(1, f"http://{receiver.address}/")
            assert await running.told(1) == [Outcome.DELIVERED]
        assert proxy.connections == 0


async def test_a_receiver_that_answers_nothing_is_left_in_time() -> None:
    """All of a try together has one bound."""
    async with receiving(held=True) as receiver, sending(receiver.address, timeout_s=0.05) as running:
        await running.end_job(1, f"http://{receiver.address}/")
        assert await running.told(1) == [Outcome.POSTPONED]


async def test_a_slow_receiver_delays_nobody_elses_messages() -> None:
    """Hundreds that wait for it leave places for another tenant's, and for its own other receivers'."""
    async with (
        receiving(held=True) as slow,
        receiving() as quick,
        sending(slow.address, quick.address, timeout_s=600.0) as running,
    ):
        for number in range(300):
            await running.end_job(number, f"http://{slow.address}/")
        await until(lambda: bool(slow.got))
        await running.end_job(301, f"http://{quick.address}/", tenant="other")
        await running.end_job(302, f"http://{quick.address}/")
        await until(lambda: len(quick.got) == 2)  # long before the slow one is given up
        assert slow.connections <= 8
        slow.hold.set()
        while len(slow.got) < 300:
            sent = len(slow.got)
            await until(lambda sent=sent: len(running.outcomes) >= 2 + sent)
            running.move_on(1.0)
            await asyncio.sleep(0.005)
    assert len({got.headers["webhook-id"] for got in slow.got}) == len(slow.got) == 300


async def test_a_tenant_without_a_secret_has_nothing_sent() -> None:
    """An unsigned message would be worth nothing; it waits for the operator, who may have lost one."""
    async with receiving() as receiver, sending(receiver.address, secrets={}) as running:
        await running.end_job(1, f"http://{receiver.address}/")
        assert await running.told(1) == [Outcome.POSTPONED]
        assert receiver.connections == 0


async def test_a_gateway_that_ends_leaves_its_messages_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being sent is there for them at once, not when its hold is over."""
    monkeypatch.setattr("lego_serve.webhooks.sender.GRACE_S", 0.01)
    async with receiving(held=True) as receiver:
        async with sending(receiver.address) as running:
            await running.end_job(1, f"http://{receiver.address}/")
            await until(lambda: bool(receiver.got))
        (row,) = await running.store.take_outbox(10, HOLD_S)
    assert (row.tries, row.id) == (0, receiver.got[0].headers["webhook-id"])


async def test_a_message_no_gateway_can_read_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender says so, once however often it meets it, and goes on."""
    monkeypatch.setattr("lego_serve.webhooks.sender.POLL_S", 0.01)
    async with receiving() as receiver, sending(receiver.address) as running:
        take, calls = running.store.take_outbox, []

        async def unreadable_at_first(limit: int, hold_s: float) -> object:
            calls.append(limit)
            if len(calls) <= 3:
                raise ValueError("the stored OutboxRow has format 2")
            return await take(limit, hold_s)

        monkeypatch.setattr(running.store, "take_outbox", unreadable_at_first)
        await running.end_job(1, f"http://{receiver.address}/")
        assert await running.told(1) == [Outcome.DELIVERED]
    assert caplog.text.count("the outbox could not be read") == 1


async def test_a_receiver_allowed_no_longer_is_not_sent_to() -> None:
    """What was taken at submit is checked again at each try."""
    async with receiving() as receiver, sending() as running:
        job = await running.end_job(1, f"http://{receiver.address}/")
        assert await running.told(1) == [Outcome.POSTPONED]
        assert receiver.connections == 0
        running.move_on(RETRY_AFTER_S[0])
        await running.told(2)
        assert (await running.store.get(job.id)) == replace(job)


async def test_a_message_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the job's request and result are: receivers need take no more than 20 KiB."""
    async with receiving() as receiver, sending(receiver.address) as running:
        inputs = {"prompt": "a" * 4000, "n": 10}
        await running.end_job(1, f"http://{receiver.address}/", inputs=inputs, metadata={"k": "v" * 500})
        await running.told(1)
        assert len(receiver.got[0].body) < 20 * 1024
        assert "prompt" not in json.loads(receiver.got[0].body)["data"]


async def test_a_message_that_could_not_be_removed_comes_again_under_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store was away after the receiver had answered: the receiver tells the two apart by nothing."""
    async with receiving() as receiver, sending(receiver.address) as running:
        settle, calls = running.store.settle, []

        async def away_once(row_id: str) -> None:
            calls.append(row_id)
            if len(calls) == 1:
                raise StoreUnavailable("away")
            await settle(row_id)

        monkeypatch.setattr(running.store, "settle", away_once)
        await running.end_job(1, f"http://{receiver.address}/")
        await until(lambda: len(calls) == 1)
        running.move_on(HOLD_S - 1.0)
        await asyncio.sleep(0.02)
        assert len(receiver.got) == 1
        running.move_on(1.5)
        assert await running.told(1) == [Outcome.DELIVERED]
        assert len({(got.headers["webhook-id"], got.body) for got in receiver.got}) == 1
        assert len(receiver.got) == 2


async def test_two_gateways_send_each_message_once() -> None:
    """Whoever takes it has it for as long as a try can last."""
    async with receiving() as receiver, sending(receiver.address) as running:
        rules = ReceiverRules(frozenset({receiver.address}))
        settings, told = WebhookSettings(SECRETS, rules), running.outcomes.append
        other = WebhookSender(running.store, settings, time.time, lambda: 0.0, on_outcome=told)
        task = asyncio.create_task(other.run())
        for number in range(40):
            await running.end_job(number, f"http://{receiver.address}/")
            other.wake()
        while len(running.outcomes) < 40:  # what neither has a place for is put off by less than a second
            known = len(running.outcomes)
            running.move_on(1.0)
            other.wake()
            await until(lambda known=known: len(running.outcomes) > known)
        await asyncio.sleep(0.05)
        await other.close()
        await task
    assert len(receiver.got) == len({got.headers["webhook-id"] for got in receiver.got}) == 40
