"""What nodes answer about templates, and how it is asked of all of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lego_serve.core.editing.edit import EditInput, EditLatents, image_key
from lego_serve.core.editing.templates import TemplateCommand
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.errors import NodeError, NotFound
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.coordinator import broadcast
from lego_serve.serving.coordinator.broadcast import ask_template
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.text_encoder import TextEncoderNode, VaeNode

BYTES, STEPS, SIZE = 1 << 24, 4, 96


def asked(tenant: str, pin: str = "") -> EditInput:
    """An edit of one token of an image."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    weight = np.zeros((SIZE, SIZE), np.uint8)
    weight[:16, :16] = 255
    return EditInput(pixels, weight, image=image_key(tenant, pixels.shape, pixels.tobytes()), pin=pin)


async def encoded(vae: VaeNode, ask: EditInput) -> EditLatents:
    """As a backbone is given it."""
    value: Any = (await vae.run(NodeCall("encode_edit", {"edit": ask}))).value
    found: EditLatents = value["edit"]
    return found


async def test_a_tenants_template_is_kept_and_forgotten_apart_from_anothers(spec: ModelSpec) -> None:
    """The same image of two tenants: each primes for itself, to the same bits, and one can go without the other."""
    vae, text = VaeNode(spec, 1), TextEncoderNode(spec, 1, BYTES)
    node = BackboneNode(spec, "fifo", "auto", "auto", 5, True, 1, template_bytes=BYTES, template_coding="int8")
    cond, empty = [(await text.run(NodeCall("text_encode", {"prompt": p}))).value for p in ("a red circle", "")]

    async def run(ask: EditInput) -> NodeResult:
        inputs = {"width": SIZE, "height": SIZE, "steps": STEPS, "guidance": 4.0, "seed": 3, "n": 1}
        inputs |= {"cond": cond, "negative": empty, "prime": empty, "edit": {"edit": await encoded(vae, ask)}}
        answer = [message async for message in node.stream(NodeCall("denoise", inputs))][-1]
        assert isinstance(answer, NodeResult)
        assert answer.error is None
        return answer

    async def primed(ask: EditInput) -> int:
        answer = await run(ask)
        assert answer.stats.reuse is not None
        return answer.stats.reuse.primed

    hers, his = asked("anna", "pin"), asked("otto")
    assert (await primed(hers), await primed(hers)) == (STEPS, 0)
    assert await primed(his) == STEPS
    assert len(node.templates()) == 2
    rows, plain, text = [await node.template(verb, f"{SIZE}x{SIZE}") for verb in ("rows", "entry", "text")]
    assert rows == (SIZE // 16) ** 2
    each = plain + text  # all branches are primed alike
    assert await node.template("bytes", hers.image) == pytest.approx(STEPS * each, rel=0.05)
    assert node._engine.templates.pinned_bytes == STEPS * each
    assert await node.template("forget", f"{hers.image} {hers.pin}") == STEPS * each
    assert await primed(his) == 0
    assert await node.template("bytes", hers.image) == 0
    assert node._engine.templates.pinned_bytes == 0
    assert await primed(hers) == STEPS
    assert node._engine.templates.pinned_bytes == 0, "an edit that was on its way does not pin what was removed"
    values: list[Any] = [(await run(ask)).value for ask in (hers, his)]
    assert np.array_equal(values[0]["latents"], values[1]["latents"])


async def test_edits_of_an_image_share_what_their_caption_primed(spec: ModelSpec) -> None:
    """Entries are told apart by the words; the branch without the prompt reads those of the negative one."""
    vae, text = VaeNode(spec, 1), TextEncoderNode(spec, 1, BYTES)
    node = BackboneNode(spec, "fifo", "auto", "auto", 5, True, 1, template_bytes=BYTES, template_coding="int8")
    made: dict[str, Any] = {}

    async def primed(caption: str, prompt: str) -> int:
        words = (("cond", prompt), ("negative", ""), ("prime", caption))
        inputs = {name: (await text.run(NodeCall("text_encode", {"prompt": said}))).value for name, said in words}
        edit = await encoded(vae, replace(asked("anna"), is_described=bool(caption)))
        assert edit.is_described == bool(caption)
        inputs |= {"width": SIZE, "height": SIZE, "steps": STEPS, "guidance": 4.0, "seed": 3, "n": 1}
        answer = [said async for said in node.stream(NodeCall("denoise", inputs | {"edit": {"edit": edit}}))][-1]
        assert isinstance(answer, NodeResult)
        assert answer.stats.reuse is not None
        made[caption] = answer.value
        return answer.stats.reuse.primed

    assert await primed("a blue square", "a red circle") == 2 * STEPS
    assert await primed("a blue square", "a green cross") == 0
    assert await primed("", "a red circle") == 0
    assert await primed("a yellow square", "a red circle") == STEPS
    assert not np.array_equal(made[""]["latents"], made["a yellow square"]["latents"])


async def test_nothing_is_kept_where_nothing_ran(spec: ModelSpec) -> None:
    """A replica that has not computed yet answers, and forgets, all the same."""
    node = BackboneNode(spec, "fifo", "auto", "auto", 5, True, 1)
    assert await node.template("bytes", "a") == 0
    assert await node.template("forget", "a p") == 0


async def test_an_autoencoder_forgets_how_an_image_is_encoded(spec: ModelSpec) -> None:
    """Its owner's, and to other questions it has no answer."""
    vae = VaeNode(spec, 1)
    hers, his = asked("anna"), asked("otto")
    first, other = await encoded(vae, hers), await encoded(vae, his)
    assert np.array_equal(np.asarray(first.latents), np.asarray(other.latents))
    assert first.key != other.key
    before = vae._templates.bytes
    await vae.template("bytes", hers.image)
    assert vae._templates.bytes == before
    await vae.template("forget", f"{hers.image} pin")
    assert vae._templates.bytes == before // 2
    await vae.template("forget", hers.image)
    assert vae._templates.bytes == before // 2
    assert np.array_equal(np.asarray((await encoded(vae, hers)).latents), np.asarray(first.latents))


class Replicas:
    """A deployment of two replicas, of which one is ``lost`` for so many orders more."""

    def __init__(self, says: int | None) -> None:
        self.says, self.lost = says, 0
        self.orders: list[tuple[str, str]] = []

    async def control(self, order: str, name: str) -> list[tuple[str, int | None]]:
        """What each says."""
        self.orders.append((order, name))
        if self.lost:
            self.lost -= 1
            raise NodeLost
        return [("r1", self.says), ("r2", None)]


async def test_an_order_goes_to_the_backbone_of_its_model_and_to_all_autoencoders_where_one_forgets() -> None:
    """Replicas without an answer are left out; a lost one is an error of ours."""
    nodes = {("m", "backbone"): Replicas(7), ("m", "vae"): Replicas(None), ("o", "backbone"): Replicas(9)}
    assert await ask_template(nodes, TemplateCommand("bytes", "m", "p")) == {"r1": 7}
    assert nodes["m", "vae"].orders == []
    assert await ask_template(nodes, TemplateCommand("forget", "m", "p q")) == {"r1": 7}
    assert nodes["m", "vae"].orders == [("template_forget", "p q")]
    assert nodes["o", "backbone"].orders == []
    assert await ask_template(nodes, TemplateCommand("bytes", "gone", "p")) == {}
    nodes["m", "backbone"].lost = 100
    with pytest.raises(NodeError):
        await ask_template(nodes, TemplateCommand("bytes", "m", "p"), 0.02)


async def test_a_replica_that_has_just_died_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders are given again until Serve knows of its death; who is unknown then is not found."""
    monkeypatch.setattr(broadcast, "PAUSES_S", (0.01, 0.01, 0.01))
    nodes = {("m", "backbone"): Replicas(7)}
    for ask in (
        lambda: ask_template(nodes, TemplateCommand("bytes", "m", "p")),
        lambda: broadcast.list_replicas(nodes),
        lambda: broadcast.drain(nodes, "r1"),
    ):
        nodes["m", "backbone"].lost = 2
        assert await ask() in ({"r1": 7}, {"r1": "m.backbone", "r2": "m.backbone"}, 7)
    nodes["m", "backbone"].lost = 2
    with pytest.raises(NotFound):
        await broadcast.drain(nodes, "nobody")
