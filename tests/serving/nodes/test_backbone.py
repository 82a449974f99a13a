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
from lego_serve.errors import NodeError, NotFound
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes import availability
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.controlnet import ControlNetNode
from lego_serve.serving.nodes.controlnet_sources import ControlNetPlan
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.text_encoder import TextEncoderNode, VaeNode
from lego_serve.zoo.tiny_models import control_miniature
from tests.support.adapters import diffusers_names, products, saved

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

    async def run(self, call: NodeCall) -> NodeResult:
        """One call."""
        if call.kind == "fetch_adapter":
            await self.gate.wait()
            if self.error is not None:
                return NodeResult(error=self.error)
        return await self.node.run(call)

    async def load(self, *names: str, **more: Any) -> dict[str, tuple[LoadedAdapter, ...]]:
        """What a `load_adapters` answers."""
        answer = await self.run(NodeCall("load_adapters", {"lora": tuple(AdapterRequest(name) for name in names)}))
        value: Any = answer.value
        return {"adapters": tuple(replace(adapter, **more) for adapter in value["adapters"])}


@pytest.fixture
def lora_node(spec: ModelSpec, root: Path) -> Slow:
    """A LoRA node that waits."""
    return Slow(LoraNode(spec, [root], BYTES))


@pytest.fixture
def backbone(spec: ModelSpec, lora_node: Slow, tmp_path: Path, tiny_folder: Path) -> BackboneNode:
    """A backbone with a ControlNet beside it."""
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(tmp_path)
    net = ControlNetPlan(replace(spec, name="edges", path=str(tmp_path)), "colocated", "")
    return BackboneNode(spec, "fifo", "auto", "auto", 5, True, 1, lora_node, BYTES, "auto", [net])


@pytest.fixture(scope="module")
def text(spec: ModelSpec, root: Path) -> TextEncoderNode:
    """A text encoder whose LoRA node does not wait."""
    return TextEncoderNode(spec, 1, BYTES, LoraNode(spec, [root], BYTES), BYTES)


async def call(text: TextEncoderNode, **more: object) -> NodeCall:
    """A denoising call."""
    cond, negative = [(await text.run(NodeCall("text_encode", {"prompt": p}))).value for p in ("a red circle", "")]
    inputs = {"width": 96, "height": 96, "steps": STEPS, "guidance": 4.0, "seed": 3, "n": 2}
    return NodeCall("denoise", inputs | {"cond": cond, "negative": negative} | more)


async def run(node: BackboneNode, call: NodeCall) -> NodeResult:
    """The answer to a call."""
    answer = [message async for message in node.stream(call)][-1]
    assert isinstance(answer, NodeResult)
    return answer


def latents(answer: NodeResult) -> np.ndarray:
    """The latents of an answer that is none of an error."""
    assert answer.error is None, answer.error
    value: Any = answer.value
    return np.asarray(value["latents"])


async def test_lanes_wait_for_their_adapters_and_others_do_not(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode
) -> None:
    """To the bits they have when it is at hand; the answer says which it was, and nothing stays pinned."""
    loaded = await lora_node.load("image")
    waiting = asyncio.ensure_future(run(backbone, await call(text, adapters=loaded)))
    plain = await run(backbone, await call(text))
    assert not waiting.done()
    lora_node.gate.set()
    cold, warm = await waiting, await run(backbone, await call(text, adapters=loaded))
    assert np.array_equal(latents(cold), latents(warm))
    assert not np.array_equal(latents(cold), latents(plain))
    assert [(s.name, s.hit, s.steps_without_adapter) for s in cold.stats.adapters] == [("image", False, 0)]
    assert [s.steps_active for s in cold.stats.adapters] == [STEPS]
    [known] = (await lora_node.load("image"))["adapters"]
    assert backbone.resident() == (known.sha256,) != ("",)
    assert [(s.hit, s.load_s) for s in warm.stats.adapters] == [(True, 0.0)]
    assert plain.stats.adapters == ()
    assert backbone._shelf is not None
    assert backbone._shelf._cache.ledger.pinned_bytes == 0


async def test_an_early_start_is_bounded_by_the_profile(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode
) -> None:
    """Half of the steps here; the answer says how many went by."""
    loaded = await lora_node.load("image", early_ratio=0.5)
    waiting = asyncio.ensure_future(run(backbone, await call(text, adapters=loaded)))
    await run(backbone, await call(text))
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
    loaded = await lora_node.load("image", ask=AdapterRequest("image", 1.0, start, end))
    answer = await run(backbone, await call(text, adapters=loaded))
    assert [used.steps_active for used in answer.stats.adapters] == [steps]
    plain = await run(backbone, await call(text))
    assert np.array_equal(latents(answer), latents(plain)) == (steps == 0)


async def test_an_adapter_that_cannot_be_had_ends_its_call_and_no_other(
    backbone: BackboneNode, lora_node: Slow, text: TextEncoderNode
) -> None:
    """Its lanes are dropped; a call that is given up while it waits leaves nothing either."""
    loaded = await lora_node.load("image")
    lora_node.error = NodeError("gone")
    failing = asyncio.ensure_future(run(backbone, await call(text, adapters=loaded)))
    leaving = asyncio.ensure_future(run(backbone, await call(text, adapters=loaded)))
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    lora_node.gate.set()
    assert (await failing).error is lora_node.error
    lora_node.error = None
    latents(await run(backbone, await call(text)))
    assert backbone._engine.lanes == 0
    assert backbone._shelf is not None
    assert backbone._shelf._cache.ledger.pinned_bytes == 0


async def test_a_model_without_adapters_says_so(spec: ModelSpec, lora_node: Slow, text: TextEncoderNode) -> None:
    """Rather than run without."""
    node = BackboneNode(spec, "fifo", "auto", "auto", 5, True, 1)
    answer = await run(node, await call(text, adapters=await lora_node.load("image")))
    assert answer.error is not None
    assert answer.error.code == "no_adapters"


async def test_a_control_image_is_encoded_and_followed(
    backbone: BackboneNode, spec: ModelSpec, text: TextEncoderNode
) -> None:
    """The same image by the same key; weight 0 is the model itself; an unknown ControlNet is an error."""
    vae = VaeNode(spec, 1)
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)

    async def encoded(name: str, weight: float) -> Any:
        asks = (ControlNetRequest(name, pixels, weight, 0.0, 0.5),)
        return (await vae.run(NodeCall("encode_controls", {"controlnet": asks, "width": 96, "height": 96}))).value

    once, again = await encoded("edges", 1.0), await encoded("edges", 0.0)
    assert once["controls"][0].key == again["controls"][0].key
    assert (once["controls"][0].weight, once["controls"][0].end) == (1.0, 0.5)
    plain = await run(backbone, await call(text))
    followed = await run(backbone, await call(text, controls=once))
    [ran] = followed.stats.controlnets
    assert (ran.name, ran.placement, len(ran.ran), ran.steps_active) == ("edges", "colocated", STEPS // 2, STEPS // 2)
    assert not np.array_equal(latents(followed), latents(plain))
    without = await run(backbone, await call(text, controls=again))
    assert np.array_equal(latents(without), latents(plain))
    assert [net.steps_active for net in without.stats.controlnets] == [0]
    missing = await run(backbone, await call(text, controls=await encoded("none", 1.0)))
    assert missing.error is not None
    assert missing.error.code == "no_controlnet"


class Away:
    """A ControlNet's node whose only replica dies in the middle of a step, and is replaced when it is let."""

    def __init__(self, node: ControlNetNode, dies_at: int) -> None:
        self.node, self.calls_left = node, dies_at
        self.replaced = asyncio.Event()

    async def run(self, call: NodeCall) -> NodeResult:
        """One call."""
        self.calls_left -= call.kind == "control_step"
        if self.calls_left == 0 and call.kind == "control_step":
            raise NodeLost
        if self.calls_left <= 0:
            await self.replaced.wait()
        return await self.node.run(call)

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """Not used here."""
        yield NodeResult()


async def test_while_a_controlnet_is_away_lanes_without_it_go_on(
    spec: ModelSpec, text: TextEncoderNode, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with it wait and end with the bits they have undisturbed, or with an error when it takes too long."""
    monkeypatch.setattr(availability, "TICK_S", 0.05)
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(tmp_path)
    far = replace(spec, name="far", path=str(tmp_path))
    vae, pixels = VaeNode(spec, 1), np.full((96, 96, 3), 200, np.uint8)
    asked = NodeCall("encode_controls", {"controlnet": (ControlNetRequest("far", pixels),), "width": 96, "height": 96})
    controls = (await vae.run(asked)).value

    async def played(wire: Away, timeout_s: float) -> tuple[BackboneNode, "asyncio.Future[NodeResult]"]:
        plan = ControlNetPlan(far, "remote", "", timeout_s=timeout_s)
        node = BackboneNode(spec, "fifo", "auto", "auto", 5, True, 1, controlnets=[plan], control_nodes={"far": wire})
        waiting = asyncio.ensure_future(run(node, await call(text, controls=controls, n=1)))
        while wire.calls_left > 0:
            await asyncio.sleep(0.01)
        return node, waiting

    wire = Away(ControlNetNode(far, spec), 3)
    node, waiting = await played(wire, 60.0)
    latents(await asyncio.wait_for(run(node, await call(text)), 20))
    assert not waiting.done()
    wire.replaced.set()
    answer = await waiting
    assert [len(ran.ran) for ran in answer.stats.controlnets] == [STEPS]
    undisturbed = await run(node, await call(text, controls=controls, n=1))
    assert np.array_equal(latents(answer), latents(undisturbed))
    _, late = await played(Away(wire.node, 2), 0.7)
    error = (await asyncio.wait_for(late, 20)).error
    assert error is not None
    assert error.code == "controlnet_late"


async def test_a_text_encoder_waits_for_what_changes_it_and_nothing_else(
    text: TextEncoderNode, lora_node: Slow, spec: ModelSpec
) -> None:
    """Prompts with and without are told apart by its cache, and encoded at the same time they stay themselves."""
    image, words = await lora_node.load("image"), await lora_node.load("text")
    held = TextEncoderNode(spec, 4, BYTES, lora_node, BYTES)
    prompts = [{"prompt": "a"}, {"prompt": "a", "adapters": image}]
    plain, same = [await held.run(NodeCall("text_encode", said)) for said in prompts]
    assert (plain.stats.cache_hit, same.stats.cache_hit) == (False, True)
    said = [{"prompt": p} | ({"adapters": words} if changed else {}) for p in "ab" for changed in (True, False)]
    alone = [await text.run(NodeCall("text_encode", each)) for each in said]
    together = asyncio.gather(*(held.run(NodeCall("text_encode", each)) for each in said))
    await asyncio.sleep(0.05)
    assert not together.done()
    lora_node.gate.set()
    tokens = [_tokens(answer) for answer in alone]
    assert all(map(torch.equal, map(_tokens, await together), tokens))
    assert not torch.equal(tokens[0], tokens[1])


async def test_a_text_encoder_tells_what_is_wrong_with_an_adapter(text: TextEncoderNode) -> None:
    """As a value, as it does of prompts."""
    gone = LoadedAdapter(AdapterRequest("gone"), "0" * 64, 10, has_text=True)
    answer = await text.run(NodeCall("text_encode", {"prompt": "a", "adapters": {"adapters": (gone,)}}))
    assert isinstance(answer.error, NotFound)


def _tokens(answer: NodeResult) -> torch.Tensor:
    value: Any = answer.value
    return torch.from_numpy(value["tokens"])
