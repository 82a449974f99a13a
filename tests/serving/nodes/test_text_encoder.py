"""The text encoder's node: its cache, and where its time goes."""

import asyncio
import time
from collections.abc import Sequence

import pytest
import torch

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import TextEncodeInput
from lego_serve.errors import RequestError
from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes import text_encoder
from lego_serve.serving.nodes.options import TextEncoderOptions
from lego_serve.serving.nodes.text_encoder import TextEncoderNode

TAKES_S = 0.15


class FakeEncoder:
    """Takes its time with every batch and reads prompts of ten letters."""

    max_batch = 1

    def check(self, prompt: str) -> None:
        """Refuse the long ones."""
        if len(prompt) > 10:
            raise RequestError("`prompt` is long.", param="prompt")

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Zeros."""
        time.sleep(TAKES_S)
        return [Conditioning(torch.zeros(2, 3), torch.zeros(3)) for _ in prompts]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> TextEncoderNode:
    """A node that encodes one prompt at a time."""
    monkeypatch.setattr(text_encoder, "load_text_encoder", lambda spec: FakeEncoder())
    return TextEncoderNode(ModelSpec("tiny", "nowhere"), TextEncoderOptions(1, 10_000))


async def test_waiting_for_ones_turn_is_not_running(node: TextEncoderNode) -> None:
    """Of two prompts at once each ran as long, and the second waited for the first."""
    results = await asyncio.gather(*(node.run(NodeCall(TextEncodeInput(p))) for p in "ab"))
    first, second = (answer.stats for answer in results)
    assert first.queue_s < TAKES_S / 2
    assert second.queue_s > TAKES_S / 2
    for stats in (first, second):
        assert TAKES_S <= stats.run_s < 2 * TAKES_S


async def test_a_known_prompt_costs_nothing(node: TextEncoderNode) -> None:
    """It comes from the cache, as it was."""
    call = NodeCall(TextEncodeInput("a"))
    made, kept = await node.run(call), await node.run(call)
    assert kept.value is made.value
    assert made.reply.tokens.shape == (2, 3)
    assert (kept.stats.cache_hit, kept.stats.run_s) == (True, 0.0)


async def test_a_refusal_is_an_answer(node: TextEncoderNode) -> None:
    """It crosses to the coordinator as what it is."""
    answer = await node.run(NodeCall(TextEncodeInput("a" * 11)))
    assert isinstance(answer.error, RequestError)
