"""The text encoder's node: its cache, and where its time goes."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import TextEncodeInput
from lego_serve.errors import RequestError
from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes import text_encoder
from lego_serve.serving.nodes.options import TextEncoderOptions
from lego_serve.serving.nodes.text_encoder import TextEncoderNode
from tests.support.clocks import HandClock

TAKES_S = 0.15


class FakeEncoder(HandClock):
    """Takes its time with every batch, by a clock of its own, when it is let, and reads prompts of ten letters."""

    max_batch = 1

    def __init__(self) -> None:
        super().__init__()
        self.let = {"b": threading.Event()}

    def count(self, prompt: str) -> int:
        """A token a letter; long prompts are refused."""
        if len(prompt) > 10:
            raise RequestError("`prompt` is long.", param="prompt")
        return len(prompt)

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Zeros."""
        for prompt in prompts:
            if prompt in self.let:
                assert self.let[prompt].wait(60)
        self.now_s += TAKES_S
        return [Conditioning(torch.zeros(2, 3), torch.zeros(3)) for _ in prompts]


@pytest.fixture
def encoder() -> FakeEncoder:
    """What the node has in place of a model."""
    return FakeEncoder()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, encoder: FakeEncoder) -> TextEncoderNode:
    """A node that encodes one prompt at a time, and takes its times from the encoder's clock."""
    monkeypatch.setattr(text_encoder, "load_text_encoder", lambda spec: encoder)
    monkeypatch.setattr(text_encoder, "time", SimpleNamespace(monotonic=encoder))
    return TextEncoderNode(ModelSpec("tiny", "nowhere"), TextEncoderOptions(1, 10_000))


async def test_waiting_for_ones_turn_is_not_running(node: TextEncoderNode, encoder: FakeEncoder) -> None:
    """Of two prompts at once each ran as long, and the second waited for the first."""
    calls = [asyncio.ensure_future(node.run(NodeCall(TextEncodeInput(prompt)))) for prompt in "ab"]
    first = (await calls[0]).stats
    encoder.let["b"].set()
    second = (await calls[1]).stats
    assert (first.queue_s, first.run_s) == (0.0, TAKES_S)
    assert (second.queue_s, second.run_s) == (pytest.approx(TAKES_S), pytest.approx(TAKES_S))


async def test_a_known_prompt_costs_nothing(node: TextEncoderNode) -> None:
    """It comes from the cache, as it was."""
    call = NodeCall(TextEncodeInput("a"))
    made, kept = await node.run(call), await node.run(call)
    assert kept.value is made.value
    assert made.reply.tokens.shape == (2, 3)
    assert (kept.stats.cache_hit, kept.stats.run_s) == (True, 0.0)
    assert (made.stats.text_tokens, kept.stats.text_tokens) == (1, 1)


async def test_a_refusal_is_an_answer(node: TextEncoderNode) -> None:
    """It crosses to the coordinator as what it is."""
    answer = await node.run(NodeCall(TextEncodeInput("a" * 11)))
    assert isinstance(answer.error, RequestError)


async def test_a_tenants_prompts_are_no_other_tenants_hits(node: TextEncoderNode) -> None:
    """Neither an answer nor its time tells one tenant what another has asked for; its own prompt is a hit."""
    calls = [NodeCall(TextEncodeInput("secret"), tenant=tenant) for tenant in ("alpha", "beta", "alpha")]
    first, other, again = [(await node.run(call)).stats for call in calls]
    assert [first.cache_hit, other.cache_hit, again.cache_hit] == [False, False, True]
    assert other.run_s == pytest.approx(TAKES_S)


@given(tenants=st.tuples(st.text(max_size=4), st.text(max_size=4)), prompts=st.tuples(st.text(), st.text()))
def test_no_prompt_of_one_tenant_has_the_name_of_anothers(tenants: tuple[str, str], prompts: tuple[str, str]) -> None:
    """Two names are equal only where tenant and prompt both are, whatever digits and colons they hold."""
    names = [text_encoder._cache_key(tenant, prompt, ()) for tenant, prompt in zip(tenants, prompts, strict=True)]
    assert (names[0] == names[1]) == ((tenants[0], prompts[0]) == (tenants[1], prompts[1]))


async def test_what_is_cached_of_a_batch_holds_nothing_of_its_mates(tiny_folder: Path) -> None:
    """Each array owns its memory, so that the cache's bound is one of what the process holds."""
    spec = ModelSpec("lego-tiny", str(tiny_folder), max_sequence_length=0, dtype="float32")
    whole = TextEncoderNode(spec, TextEncoderOptions(8))
    results = await asyncio.gather(*(whole.run(NodeCall(TextEncodeInput(f"a {n}"))) for n in range(20)))
    for result in results:
        for array in (result.reply.tokens, result.reply.pooled):
            assert isinstance(array, np.ndarray)
            assert array.base is None


async def test_a_node_that_measures_encodes_each_prompt_with_the_bits_it_has_alone(tiny_folder: Path) -> None:
    """With a cold cache, all at once and one after the other."""
    spec = ModelSpec("lego-tiny", str(tiny_folder), max_sequence_length=0, dtype="float32")
    prompts = [f"a {word} circle" for word in ("red", "blue", "green", "small", "large", "", "yellow", "one " * 9)]
    together, alone = TextEncoderNode(spec, TextEncoderOptions("auto")), TextEncoderNode(spec, TextEncoderOptions(1))
    at_once = await asyncio.gather(*(together.run(NodeCall(TextEncodeInput(prompt))) for prompt in prompts))
    for prompt, result in zip(prompts, at_once, strict=True):
        single = await alone.run(NodeCall(TextEncodeInput(prompt)))
        for name in ("tokens", "pooled"):
            assert np.array_equal(getattr(result.reply, name), getattr(single.reply, name)), (prompt, name)
