"""The backbone's and the text encoder's nodes with adapters and ControlNets: waiting, early starts, what goes wrong."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.core.addons import AdapterRequest, ControlNetRequest, LoadedAdapter
from lego_serve.core.jobs.messages import Message, NodeCall, NodeResult
from lego_serve.core.nodes.messages import (
    DenoiseInput,
    DenoiseOutput,
    EncodeControlsInput,
    EncodeControlsOutput,
    LoadAdaptersOutput,
    TextEncodeInput,
    TextEncodeOutput,
)
from lego_serve.core.nodes.requests import FetchAdapter
from lego_serve.errors import NodeError, NotFound
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.controlnets import availability, remote
from lego_serve.serving.nodes.controlnets.messages import RunControlNetStep
from lego_serve.serving.nodes.controlnets.node import ControlNetNode
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import ControlNetOptions, ControlNetPlan, LoraOptions, VaeOptions
from lego_serve.serving.nodes.text_encoder import TextEncoderNode
from lego_serve.serving.nodes.vae import VaeNode
from tests.support.clocks import until
from tests.support.lora.adapters import diffusers_names, products, saved
from tests.support.nodes import backbone_node, denoised, encoded, latents_of, resolved, text_node
from tests.support.tiny_models import control_miniature

BYTES = 1 << 24
STEPS = 4


@pytest.fixture(scope="module")
def root(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters, of which `text` changes the text encoders alone."""
    root, base = tmp_path_factory.mktemp("root"), base_layers(spec)
    saved(diffusers_names(products(base, 1, only="transformer.")), root, "image")
    saved(diffusers_names(products(base, 2, only="text_encoder.")), root, "text")
    return root


class Slow:
    """A LoRA node that hands out bytes when it is let."""

    def __init__(self, node: LoraNode) -> None:
        self.node, self.gate = node, asyncio.Event()
        self.error: NodeError | None = None

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call."""
        if isinstance(call.request, FetchAdapter):
            await self.gate.wait()
            if self.error is not None:
                return NodeResult(error=self.error)
        return await self.node.run(call)

    async def load(self, *names: str, **more: Any) -> LoadAdaptersOutput:
        """What a `load_adapters` answers."""
        adapters = await resolved(self.node, *names)
        return LoadAdaptersOutput(tuple(replace(adapter, **more) for adapter in adapters))


@pytest.fixture
def lora_node(spec: ModelSpec, root: Path) -> Slow:
    """A LoRA node that waits."""
    return Slow(LoraNode(spec, LoraOptions((root,), BYTES)))


@pytest.fixture
def backbone(spec: ModelSpec, lora_node: Slow, tmp_path: Path, tiny_folder: Path) -> BackboneNode:
    """A backbone with a ControlNet beside it."""
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(tmp_path)
    net = ControlNetPlan(replace(spec, name="edges", path=str(tmp_path)), "colocated", "")
    return backbone_node(spec, lora_node, [net], adapter_mode="auto")


@pytest.fixture(scope="module")
def text(spec: ModelSpec, root: Path) -> TextEncoderNode:
    """A text encoder whose LoRA node does not wait."""
    return text_node(spec, 1, LoraNode(spec, LoraOptions((root,), BYTES)))


async def call(text: TextEncoderNode, **more: Any) -> NodeCall[DenoiseOutput]:
    """A denoising call."""
    cond, negative = await encoded(text, "a red circle"), await encoded(text, "")
    fields = {"width": 96, "height": 96, "steps": STEPS, "guidance": 4.0, "seed": 3, "n": 2, "negative": negative}
    return NodeCall(DenoiseInput(cond, **fields | more))


async def test_lanes_wait_for_their_adapters_and_others_do_not(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode
) -> None:
    """To the bits they have when it is at hand; the answer says which it was, and nothing stays pinned."""
    loaded = await lora_node.load("image")
    waiting = asyncio.ensure_future(denoised(backbone, await call(text, adapters=loaded)))
    plain = await denoised(backbone, await call(text))
    assert not waiting.done()
    lora_node.gate.set()
    cold, warm = await waiting, await denoised(backbone, await call(text, adapters=loaded))
    assert np.array_equal(latents_of(cold), latents_of(warm))
    assert not np.array_equal(latents_of(cold), latents_of(plain))
    assert [(s.name, s.hit, s.steps_without_adapter) for s in cold.stats.adapters] == [("image", False, 0)]
    assert [s.steps_active for s in cold.stats.adapters] == [STEPS]
    [known] = (await lora_node.load("image")).adapters
    assert backbone.resident() == (known.sha256,) != ("",)
    assert [(s.hit, s.load_s) for s in warm.stats.adapters] == [(True, 0.0)]
    assert plain.stats.adapters == ()
    assert backbone._adapters is not None
    assert backbone._adapters._cache.ledger.pinned_bytes == 0


async def test_an_early_start_is_bounded_by_the_profile(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode
) -> None:
    """Half of the steps here; the answer says how many went by."""
    loaded = await lora_node.load("image", early_ratio=0.5)
    waiting = asyncio.ensure_future(denoised(backbone, await call(text, adapters=loaded)))
    await denoised(backbone, await call(text))
    await until(lambda: [lane.step for lane in list(backbone._engine._states.values())] == [STEPS // 2] * 2)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    lora_node.gate.set()
    [used] = (await waiting).stats.adapters
    assert (used.steps_without_adapter, used.steps_active) == (STEPS // 2, STEPS - STEPS // 2)


@pytest.mark.parametrize(("start", "end", "steps"), [(0.8, 0.9, 0), (0.25, 0.75, 2), (0.75, 1.0, 1)])
async def test_the_answer_tells_in_how_many_steps_an_adapter_was_at_work(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode, start: float, end: float, steps: int
) -> None:
    """None where its range lies between two steps: the image is the model's own then."""
    lora_node.gate.set()
    loaded = await lora_node.load("image", request=AdapterRequest("image", 1.0, start, end))
    answer = await denoised(backbone, await call(text, adapters=loaded))
    assert [used.steps_active for used in answer.stats.adapters] == [steps]
    plain = await denoised(backbone, await call(text))
    assert np.array_equal(latents_of(answer), latents_of(plain)) == (steps == 0)


async def test_an_adapter_that_cannot_be_had_ends_its_call_and_no_other(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode
) -> None:
    """Its lanes are dropped; a call that is given up while it waits leaves nothing either."""
    loaded = await lora_node.load("image")
    lora_node.error = NodeError("gone")
    failing = asyncio.ensure_future(denoised(backbone, await call(text, adapters=loaded)))
    leaving = asyncio.ensure_future(denoised(backbone, await call(text, adapters=loaded)))
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    lora_node.gate.set()
    assert (await failing).error is lora_node.error
    lora_node.error = None
    latents_of(await denoised(backbone, await call(text)))
    assert backbone._engine.lanes == 0
    assert backbone._adapters is not None
    assert backbone._adapters._cache.ledger.pinned_bytes == 0


async def test_a_model_without_adapters_says_so(spec: ModelSpec, lora_node: Slow, text: TextEncoderNode) -> None:
    """Rather than run without."""
    node = backbone_node(spec)
    answer = await denoised(node, await call(text, adapters=await lora_node.load("image")))
    assert answer.error is not None
    assert answer.error.code == "no_adapters"


async def test_a_control_image_is_encoded_and_followed(
    backbone: BackboneNode, spec: ModelSpec, text: TextEncoderNode
) -> None:
    """The same image by the same key; weight 0 is the model itself; an unknown ControlNet is an error."""
    vae = VaeNode(spec, VaeOptions(1))
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)

    async def control(name: str, weight: float) -> EncodeControlsOutput:
        requests = (ControlNetRequest(name, pixels, weight, 0.0, 0.5),)
        result: NodeResult[EncodeControlsOutput] = await vae.run(NodeCall(EncodeControlsInput(requests, 96, 96)))
        return result.reply

    once, again = await control("edges", 1.0), await control("edges", 0.0)
    assert once.controls[0].key == again.controls[0].key
    assert (once.controls[0].weight, once.controls[0].end) == (1.0, 0.5)
    plain = await denoised(backbone, await call(text))
    followed = await denoised(backbone, await call(text, controls=once))
    [ran] = followed.stats.controlnets
    assert (ran.name, ran.placement, len(ran.ran), ran.steps_active) == ("edges", "colocated", STEPS // 2, STEPS // 2)
    assert not np.array_equal(latents_of(followed), latents_of(plain))
    without = await denoised(backbone, await call(text, controls=again))
    assert np.array_equal(latents_of(without), latents_of(plain))
    assert [net.steps_active for net in without.stats.controlnets] == [0]
    missing = await denoised(backbone, await call(text, controls=await control("none", 1.0)))
    assert missing.error is not None
    assert missing.error.code == "no_controlnet"


class Away:
    """A ControlNet's node whose only replica dies in the middle of a step, and is replaced when it is let."""

    def __init__(self, node: ControlNetNode, dies_at: int) -> None:
        self.node, self.calls_left = node, dies_at
        self.replaced = asyncio.Event()

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call."""
        is_step = isinstance(call.request, RunControlNetStep)
        self.calls_left -= is_step
        if self.calls_left == 0 and is_step:
            raise NodeLost
        if self.calls_left <= 0:
            await self.replaced.wait()
        return await self.node.run(call)

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Not used here."""
        unused: NodeResult[Any] = NodeResult()
        yield unused


async def test_while_a_controlnet_is_away_lanes_without_it_go_on(
    spec: ModelSpec, text: TextEncoderNode, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with it wait and end with the bits they have undisturbed, or with an error when it takes too long."""
    monkeypatch.setattr(availability, "TICK_S", 0.05)
    monkeypatch.setattr(remote, "CONTROLNET_PATIENCE_S", 60.0)
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(tmp_path)
    far = replace(spec, name="far", path=str(tmp_path))
    vae, pixels = VaeNode(spec, VaeOptions(1)), np.full((96, 96, 3), 200, np.uint8)
    asked = NodeCall(EncodeControlsInput((ControlNetRequest("far", pixels),), 96, 96))
    controls = (await vae.run(asked)).reply

    async def played(wire: Away, timeout_s: float) -> tuple[BackboneNode, "asyncio.Future[NodeResult[DenoiseOutput]]"]:
        plan = ControlNetPlan(far, "remote", "", timeout_s=timeout_s)
        node = backbone_node(spec, None, [plan], {"far": wire})
        waiting = asyncio.ensure_future(denoised(node, await call(text, controls=controls, n=1)))
        await until(lambda: wire.calls_left <= 0 or waiting.done())  # a machine held up may itself be late
        return node, waiting

    wire = Away(ControlNetNode(far, ControlNetOptions(spec)), 3)
    node, waiting = await played(wire, 60.0)
    latents_of(await asyncio.wait_for(denoised(node, await call(text)), 60))
    assert not waiting.done()
    wire.replaced.set()
    answer = await waiting
    assert [len(ran.ran) for ran in answer.stats.controlnets] == [STEPS]
    undisturbed = await denoised(node, await call(text, controls=controls, n=1))
    assert np.array_equal(latents_of(answer), latents_of(undisturbed))
    _, late = await played(Away(wire.node, 2), 0.7)
    error = (await asyncio.wait_for(late, 60)).error
    assert error is not None
    assert error.code == "controlnet_late"


async def test_a_text_encoder_waits_for_what_changes_it_and_nothing_else(
    text: TextEncoderNode, lora_node: Slow, spec: ModelSpec
) -> None:
    """Prompts with and without are told apart by its cache, and encoded at the same time they stay themselves."""
    image, words = await lora_node.load("image"), await lora_node.load("text")
    held = text_node(spec, 4, lora_node)
    plain, same = [await held.run(NodeCall(TextEncodeInput("a", adapters))) for adapters in (None, image)]
    assert (plain.stats.cache_hit, same.stats.cache_hit) == (False, True)
    prompts = [TextEncodeInput(prompt, adapters) for prompt in "ab" for adapters in (words, None)]
    alone = [await text.run(NodeCall(prompt)) for prompt in prompts]
    together = asyncio.gather(*(held.run(NodeCall(prompt)) for prompt in prompts))
    await asyncio.sleep(0.05)
    assert not together.done()
    lora_node.gate.set()
    tokens = [_tokens(answer) for answer in alone]
    assert all(map(torch.equal, map(_tokens, await together), tokens))
    assert not torch.equal(tokens[0], tokens[1])


async def test_a_text_encoder_tells_what_is_wrong_with_an_adapter(text: TextEncoderNode) -> None:
    """As a value, as it does of prompts."""
    gone = LoadedAdapter(AdapterRequest("gone"), "0" * 64, 10, has_text=True)
    answer = await text.run(NodeCall(TextEncodeInput("a", LoadAdaptersOutput((gone,)))))
    assert isinstance(answer.error, NotFound)


def _tokens(result: NodeResult[TextEncodeOutput]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(result.reply.tokens))
