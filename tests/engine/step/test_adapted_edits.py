"""Edits with adapters and ControlNets: whose entries are whose, and which lanes compute in full."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.core.addons import AdapterRequest, LoadedAdapter
from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.editing.reuse import Quality
from lego_serve.core.nodes.messages import DenoiseInput, EncodeEditOutput, LoadAdaptersOutput, TextEncodeOutput
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.core.scheduling.routing import entries_read
from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.lane_state import AdapterUse, LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.models.controlnet.sd3 import Sd3ControlNet
from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.model_files import load_module
from lego_serve.models.ragged.controlnet_source import ControlNetSpec
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_results
from tests.support.edits import HEIGHT, ROOM, STEPS, WIDTH, edit_lane, made, read, template, uneven, with_store
from tests.support.lora.adapters import adapter, diffusers_names, products
from tests.support.tiny_models import control_miniature, flux_miniature, miniature

PROMPT, NEGATIVE, LENGTH = "a red circle on the left", "a blue square", 8


@pytest.fixture(scope="module", params=["sd35-medium", "flux-dev"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A miniature of either family."""
    folder = tmp_path_factory.mktemp(request.param)
    is_flux = request.param.startswith("flux")
    (flux_miniature if is_flux else miniature)(request.param).save_pretrained(folder)
    family = "flux" if is_flux else "sd3"
    return ModelSpec("mine", str(folder), family=family, dtype="float32", max_sequence_length=LENGTH)


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> BaseLayers:
    """Its layers."""
    return base_layers(spec)


@pytest.fixture(scope="module")
def image(spec: ModelSpec) -> Template:
    """An image of noise."""
    return template(with_store(spec))


def use(base: BaseLayers, seed: int, scale: float = 0.8, **more: float) -> AdapterUse:
    """A random adapter of the transformer."""
    made_up = diffusers_names(products(base, seed, only="transformer."))
    return AdapterUse(adapter(base, made_up, f"a{seed}"), scale, **more)


def lane(family: OfflinePipeline, of: Template, *uses: AdapterUse, **changes: object) -> LaneRequest:
    """An edit with adapters that reads what it may."""
    negative = NEGATIVE if family.engine.uses_cfg else None
    return edit_lane(family, of, Quality.HIGH, (PROMPT, negative), adapters=uses, **changes)


def priming(family: OfflinePipeline) -> int:
    """Passes that an edit of an unknown template needs: of both branches where there are two."""
    return STEPS * (1 + family.engine.uses_cfg)


def test_sets_of_adapters_share_no_entries(spec: ModelSpec, base: BaseLayers, image: Template) -> None:
    """Another adapter, another scale, none: each primes for itself, once, and has the bits it has alone."""
    family = with_store(spec)
    one, other = use(base, 1), use(base, 2)
    sets = {"one": (one,), "other": (other,), "weaker": (replace(one, scale=0.4),), "none": (), "both": (one, other)}
    for count, (name, uses) in enumerate(sets.items(), 1):
        request = lane(family, image, *uses)
        first = run_results(family, request)["edit"]
        assert read(first).primed == priming(family), name
        assert family.engine.templates.entries == count * priming(family)
        again = run_results(family, request)["edit"]
        assert read(again).primed == 0
        alone = made(with_store(spec), request)
        assert torch.equal(first.latents, alone), name
        assert torch.equal(again.latents, alone), name
    swapped = lane(family, image, other, one)
    assert read(run_results(family, swapped)["edit"]).primed == 0  # a set has no order
    nothing = lane(family, image, replace(one, scale=0.0))
    assert read(run_results(family, nothing)["edit"]).primed == 0  # one of no effect is none


def test_what_a_replica_says_it_has_is_what_routers_look_for(
    spec: ModelSpec, base: BaseLayers, image: Template
) -> None:
    """The same names for a lane's adapters and for those that its call brings, in whatever steps they take part."""
    one, other = use(base, 1), use(base, 2, start=0.4)
    cond = TextEncodeOutput(np.zeros((1, 1)), np.zeros(1))
    for uses in ((), (one,), (other, one), (replace(one, scale=0.0),)):
        family = with_store(spec)
        run_results(family, lane(family, image, *uses))
        edit = EditLatents(None, None, Quality.HIGH, image.key, 0.2)
        loaded = tuple(
            LoadedAdapter(AdapterRequest("a", u.scale, u.start, u.end), u.adapter.sha256, 1, has_text=False)
            for u in uses
        )
        request = DenoiseInput(
            cond, WIDTH, HEIGHT, STEPS, guidance=4.0, seed=0, n=1, edit=EncodeEditOutput(edit),
            adapters=LoadAdaptersOutput(loaded),
        )  # fmt: skip
        read = entries_read(request)
        assert family.engine.templates.templates == set(read)
    assert len(read) == 1


def test_every_lane_of_a_mixed_batch_has_the_bits_it_has_alone(
    spec: ModelSpec, base: BaseLayers, image: Template
) -> None:
    """Masked ones of two templates, whole ones, plain ones, and with adapters, masked and not; primed or not yet."""
    family, with_adapter = with_store(spec), {"adapters": (use(base, 1),)}
    high, other = Quality.HIGH, template(family, 2, 78)
    prompts = (PROMPT, NEGATIVE if family.engine.uses_cfg else None)
    lanes = [
        edit_lane(family, image, high, prompts, key="masked"),
        edit_lane(family, other, Quality.BALANCED, prompts, key="other", seed=6, steps=7, strength=0.7),
        edit_lane(family, image, high, prompts, key="masked, adapted", **with_adapter),
        edit_lane(family, image, Quality.EXACT, prompts, key="whole", seed=8),
        edit_lane(family, image, high, prompts, key="plain", edit=None, width=64, height=160),
        edit_lane(family, image, high, prompts, key="plain, adapted", edit=None, **with_adapter),
        edit_lane(family, image, high, prompts, key="twin", guidance=2.0),
    ]
    alone = {each.key: made(with_store(spec), each) for each in lanes}
    for _ in ("first", "known"):
        together = run_results(family, *lanes)
        assert max(together["masked"].step_lanes) == len(lanes)
        assert [key for key in alone if not torch.equal(together[key].latents, alone[key])] == []


def test_edits_with_adapters_are_near_the_full_path(spec: ModelSpec, base: BaseLayers, image: Template) -> None:
    """Nearer by far than with entries of the plain model would be: what is read was primed with the adapters.

    In one step, from the template's own noise, and under the edit's own prompts: nothing else is lost there.
    """
    family = with_store(spec, coding="float32")
    alike = {"seed": 77, "steps": 1}
    request = lane(family, image, use(base, 1), **alike)
    assert request.edit is not None
    own = replace(request, edit=replace(request.edit, priming_prompts=(request.cond, request.negative or request.cond)))
    whole = made(family, replace(own, edit=replace(request.edit, quality=Quality.EXACT)))
    plain = made(family, replace(own, adapters=()))
    torch.testing.assert_close(made(family, own), whole, atol=2e-4, rtol=2e-4)
    assert (plain - whole).abs().max() > 0.01


def test_an_adapter_at_work_in_some_steps_alone_is_primed_in_those(
    spec: ModelSpec, base: BaseLayers, image: Template
) -> None:
    """In the others the plain model's entries are read, which are there."""
    family = with_store(spec)
    run_results(family, lane(family, image))
    partly = run_results(family, lane(family, image, use(base, 1, start=0.4)))["edit"]
    assert read(partly).primed == priming(family) * 3 // 5
    assert torch.equal(partly.latents, made(with_store(spec), lane(family, image, use(base, 1, start=0.4))))


def test_patched_weights_prime_as_they_are(spec: ModelSpec, base: BaseLayers, image: Template) -> None:
    """Edits of two sets, one after the other in place: each as near to the grouped one as sums in another order are."""
    family = with_store(spec)
    backbone, tables = load_backbone(spec)
    batcher = StepBatcher(fifo, StepLimits(), adapters=LoraMode.PATCHED)
    engine = StepEngine(backbone, tables, batcher, lambda: 0.0, templates=TemplateStore(ROOM, lambda: 0.0, "float32"))
    patched = replace(family, engine=engine)
    grouped = with_store(spec, coding="float32")
    lanes = [lane(family, image, use(base, seed), key=str(seed)) for seed in (1, 2)]
    lanes.append(lane(family, image, key="none"))
    together = run_results(patched, *lanes)
    for each in lanes:
        torch.testing.assert_close(together[each.key].latents, made(grouped, each), atol=3e-4, rtol=3e-4)
        assert read(together[each.key]).primed == priming(family)


NET = ControlNetSpec("net", 128, 2, 0, 8, share=1 / 3)


@pytest.fixture(scope="module")
def controlled(tiny_folder: Path) -> OfflinePipeline:
    """lego-tiny's architecture with random weights, a ControlNet and room for templates."""
    tiny = ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)
    net = Sd3ControlNet(control_miniature(load_module(tiny, tiny_folder, "transformer", SD3Transformer2DModel)), NET)
    backbone, tables = load_backbone(tiny)
    store = TemplateStore(ROOM, lambda: 0.0)
    batcher = StepBatcher(fifo, StepLimits(max_rows=4096))
    engine = StepEngine(backbone, tables, batcher, lambda: 0.0, {"net": net}, store)
    return replace(OfflinePipeline.load(tiny), engine=engine)


def test_steps_with_a_controlnet_compute_in_full(controlled: OfflinePipeline) -> None:
    """Its residuals are for whole images: where it is active nothing is read, and the answer says so."""
    of = template(controlled)
    hint = torch.randn(8, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(3))
    always = lane(controlled, of, controls=(ControlNetUse("net", hint),))
    assert always.edit is not None
    exact = replace(always, edit=replace(always.edit, quality=Quality.EXACT))
    found = run_results(controlled, always)["edit"]
    assert torch.equal(found.latents, made(controlled, exact))
    assert (read(found).masked_steps, read(found).steps, read(found).primed) == (0, STEPS, 0)
    assert controlled.engine.templates.entries == 0
    partly = replace(always, controls=(ControlNetUse("net", hint, end=0.4),))
    mixed = run_results(controlled, partly, replace(exact, key="whole"), lane(controlled, of, key="masked"))
    assert read(mixed["edit"]).masked_steps == 3
    assert torch.equal(mixed["whole"].latents, found.latents)
    assert torch.equal(mixed["edit"].latents, made(controlled, partly))
    assert torch.equal(mixed["masked"].latents, made(controlled, lane(controlled, of, key="masked")))
    outside = ~uneven(of)
    assert torch.equal(found.latents[:, outside], of.latents[:, outside])
