"""What nodes answer about templates, and how it is asked of all of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lego_serve.core.editing.edit import EditInput, EditLatents, image_key
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import (
    DenoiseInput,
    DenoiseOutput,
    EncodeEditInput,
    EncodeEditOutput,
    TextEncodeOutput,
)
from lego_serve.core.nodes.requests import CountTemplateBytes, ForgetTemplate, MeasureTemplate, ReplicaCommand
from lego_serve.core.scheduling.retry import RetryPolicy
from lego_serve.errors import NodeError, NotFound
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.coordinator import broadcast
from lego_serve.serving.coordinator.broadcast import ask_about_template
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.options import TemplateOptions, VaeOptions
from lego_serve.serving.nodes.vae import VaeNode
from tests.support.clocks import in_no_time
from tests.support.nodes import backbone_node, denoised, encoded, latents_of, text_node

BYTES, STEPS, SIZE = 1 << 24, 4, 96
NOTHING = TextEncodeOutput(np.zeros((0, 0)), np.zeros(0))
FIELDS = DenoiseInput(NOTHING, SIZE, SIZE, STEPS, guidance=4.0, seed=3, n=1)


def asked(tenant: str, pin: str = "") -> EditInput:
    """An edit of one token of an image."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    weight = np.zeros((SIZE, SIZE), np.uint8)
    weight[:16, :16] = 255
    return EditInput(pixels, weight, image=image_key(tenant, pixels.shape, pixels.tobytes()), pin=pin)


async def encoded_edit(vae: VaeNode, ask: EditInput) -> EditLatents:
    """As a backbone is given it."""
    result: NodeResult[EncodeEditOutput] = await vae.run(NodeCall(EncodeEditInput(ask)))
    return result.reply.edit


async def test_a_tenants_template_is_kept_and_forgotten_apart_from_anothers(spec: ModelSpec) -> None:
    """The same image of two tenants: each primes for itself, to the same bits, and one can go without the other."""
    vae, text = VaeNode(spec, VaeOptions(1)), text_node(spec, 1)
    node = backbone_node(spec, templates=TemplateOptions(BYTES, "int8"))
    cond, empty = await encoded(text, "a red circle"), await encoded(text, "")

    async def run(ask: EditInput) -> NodeResult[DenoiseOutput]:
        edit = EncodeEditOutput(await encoded_edit(vae, ask))
        return await denoised(node, NodeCall(replace(FIELDS, cond=cond, negative=empty, prime=empty, edit=edit)))

    async def primed(ask: EditInput) -> int:
        answer = await run(ask)
        assert answer.stats.reuse is not None
        return answer.stats.reuse.primed

    hers, his = asked("anna", "pin"), asked("otto")
    assert (await primed(hers), await primed(hers)) == (STEPS, 0)
    assert await primed(his) == STEPS
    assert len(node.routing_stats()["templates"]) == 2
    size = node.template_size(MeasureTemplate(SIZE, SIZE))
    assert size.rows == (SIZE // 16) ** 2
    each = size.entry_bytes + size.text_bytes  # all branches are primed alike
    assert node.template_bytes(CountTemplateBytes(hers.image)) == pytest.approx(STEPS * each, rel=0.05)
    assert node._engine.templates.pinned_bytes == STEPS * each
    assert await node.forget_template(ForgetTemplate(hers.image, hers.pin)) == STEPS * each
    assert await primed(his) == 0
    assert node.template_bytes(CountTemplateBytes(hers.image)) == 0
    assert node._engine.templates.pinned_bytes == 0
    assert await primed(hers) == STEPS
    assert node._engine.templates.pinned_bytes == 0, "an edit that was on its way does not pin what was removed"
    assert np.array_equal(*[latents_of(await run(ask)) for ask in (hers, his)])


async def test_edits_of_an_image_share_what_their_caption_primed(spec: ModelSpec) -> None:
    """Entries are told apart by the words; the branch without the prompt reads those of the negative one."""
    vae, text = VaeNode(spec, VaeOptions(1)), text_node(spec, 1)
    node = backbone_node(spec, templates=TemplateOptions(BYTES, "int8"))
    made: dict[str, np.ndarray] = {}

    async def primed(caption: str, prompt: str) -> int:
        cond, negative, prime = [await encoded(text, words) for words in (prompt, "", caption)]
        edit = await encoded_edit(vae, replace(asked("anna"), is_described=bool(caption)))
        assert edit.is_described == bool(caption)
        request = replace(FIELDS, cond=cond, negative=negative, prime=prime, edit=EncodeEditOutput(edit))
        answer = await denoised(node, NodeCall(request))
        assert answer.stats.reuse is not None
        made[caption] = latents_of(answer)
        return answer.stats.reuse.primed

    assert await primed("a blue square", "a red circle") == 2 * STEPS
    assert await primed("a blue square", "a green cross") == 0
    assert await primed("", "a red circle") == 0
    assert await primed("a yellow square", "a red circle") == STEPS
    assert not np.array_equal(made[""], made["a yellow square"])


async def test_nothing_is_kept_where_nothing_ran(spec: ModelSpec) -> None:
    """A replica that has not computed yet answers, and forgets, all the same."""
    node = backbone_node(spec)
    assert node.template_bytes(CountTemplateBytes("a")) == 0
    assert await node.forget_template(ForgetTemplate("a", "p")) == 0


async def test_an_autoencoder_forgets_how_an_image_is_encoded(spec: ModelSpec) -> None:
    """Its owner's, and no other's."""
    vae = VaeNode(spec, VaeOptions(1))
    hers, his = asked("anna"), asked("otto")
    first, other = await encoded_edit(vae, hers), await encoded_edit(vae, his)
    assert np.array_equal(np.asarray(first.latents), np.asarray(other.latents))
    assert first.key != other.key
    before = vae._templates.bytes
    await vae.forget_template(ForgetTemplate(hers.image, "pin"))
    assert vae._templates.bytes == before // 2
    await vae.forget_template(ForgetTemplate(hers.image))
    assert vae._templates.bytes == before // 2
    assert np.array_equal(np.asarray((await encoded_edit(vae, hers)).latents), np.asarray(first.latents))


class Replicas:
    """A deployment of two replicas, of which one is ``lost`` for so many commands more."""

    def __init__(self, says: int | None) -> None:
        self.says, self.lost = says, 0
        self.commands: list[ReplicaCommand] = []

    async def control(self, command: ReplicaCommand) -> list[tuple[str, Any]]:
        """What each replies."""
        self.commands.append(command)
        if self.lost:
            self.lost -= 1
            raise NodeLost
        return [("r1", self.says), ("r2", None)]


BYTES_OF = CountTemplateBytes("p")
SOON = RetryPolicy(4, (0.01,))


@in_no_time
async def test_a_command_goes_to_the_backbone_of_its_model_and_to_all_autoencoders_where_one_forgets() -> None:
    """Replicas without a reply are left out; a lost one is an error of ours."""
    nodes = {("m", "backbone"): Replicas(7), ("m", "vae"): Replicas(None), ("o", "backbone"): Replicas(9)}
    assert await ask_about_template(nodes, "m", BYTES_OF) == {"r1": 7}
    assert nodes["m", "vae"].commands == []
    assert await ask_about_template(nodes, "m", ForgetTemplate("p", "q")) == {"r1": 7}
    assert nodes["m", "vae"].commands == [ForgetTemplate("p", "q")]
    assert nodes["o", "backbone"].commands == []
    assert await ask_about_template(nodes, "gone", BYTES_OF) == {}
    nodes["m", "backbone"].lost = 100
    with pytest.raises(NodeError):
        await ask_about_template(nodes, "m", BYTES_OF, SOON)


@in_no_time
async def test_a_replica_that_has_just_died_is_waited_out() -> None:
    """Commands are given again until Serve knows of its death; who is unknown then is not found."""
    nodes = {("m", "backbone"): Replicas(7)}
    for ask in (
        lambda: ask_about_template(nodes, "m", BYTES_OF, SOON),
        lambda: broadcast.list_replicas(nodes, SOON),
        lambda: broadcast.drain(nodes, "r1", SOON),
    ):
        nodes["m", "backbone"].lost = 2
        assert await ask() in ({"r1": 7}, {"r1": "m.backbone", "r2": "m.backbone"}, 7)
    nodes["m", "backbone"].lost = 2
    with pytest.raises(NotFound):
        await broadcast.drain(nodes, "nobody", SOON)
