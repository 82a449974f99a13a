"""Adapters in whole images, against diffusers' pipelines, alone and mixed, grouped and patched."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import InvalidAdapter, NodeError, RequestError
from lego_serve.models.loading import load_backbone, load_text_encoder
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.keys import BaseLayers
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.ragged.backbone import Backbone, TextEncoder
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.zoo.tiny_models import flux_miniature, miniature
from tests.support.adapters import (
    FORMATS,
    adapter,
    diffusers_names,
    kohya_names,
    original_names,
    products,
    saved,
    weights_hash,
)

PROMPT, NEGATIVE, STEPS, LENGTH = "a red circle on the left", "a blue square", 4, 8


class Family:
    """A miniature in our parts and, on demand, in diffusers' pipeline."""

    def __init__(self, name: str, folder: Path) -> None:
        self.is_flux = name.startswith("flux")
        (flux_miniature if self.is_flux else miniature)(name).save_pretrained(folder)
        self.folder = folder
        family = "flux" if self.is_flux else "sd3"
        self.spec = ModelSpec("mine", str(folder), family=family, dtype="float32", max_sequence_length=LENGTH)
        self.base: BaseLayers = base_layers(self.spec)
        self.backbone: Backbone
        self.tables: FlowMatchTables
        self.backbone, self.tables = load_backbone(self.spec)
        self.text: TextEncoder = load_text_encoder(self.spec)

    def pipeline(self) -> Any:
        """diffusers' pipeline of it, fresh."""
        kind = FluxPipeline if self.is_flux else StableDiffusion3Pipeline
        loaded = kind.from_pretrained(self.folder, dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        return loaded

    def ask(self, pipeline: Any, seed: int) -> torch.Tensor:
        """The pipeline's latents."""
        guidance: dict[str, Any] = {} if self.is_flux else {"negative_prompt": NEGATIVE}
        said = pipeline(
            PROMPT, width=128, height=128, num_inference_steps=STEPS, guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed), max_sequence_length=LENGTH, output_type="latent", **guidance,
        ).images  # fmt: skip
        return FluxPipeline._unpack_latents(said, 128, 128, 8)[0] if self.is_flux else said[0]

    def lane(self, key: str, seed: int, *uses: AdapterUse, **more: Any) -> LaneRequest:
        """A lane with adapters, its prompts encoded with them."""
        pairs = tuple((use.adapter, use.scale) for use in uses)
        cond = self.text.encode([PROMPT], pairs)[0]
        negative = None if self.is_flux else self.text.encode([NEGATIVE], pairs)[0]
        settings = {"width": 128, "height": 128, "steps": STEPS, "guidance": 4.0} | more
        return LaneRequest(key, seed=seed, cond=cond, negative=negative, adapters=uses, **settings)

    def engine(self, mode: LoraMode = LoraMode.GROUPED) -> StepEngine:
        """An engine over the one backbone."""
        return StepEngine(self.backbone, self.tables, StepBatcher(fifo, StepLimits(), adapters=mode), lambda: 0.0)

    def adapter(self, seed: int, rank: int = 4, only: str = "", name: str = "") -> Adapter:
        """A random adapter in our form."""
        return adapter(self.base, diffusers_names(products(self.base, seed, rank, only=only)), name or f"a{seed}")


@pytest.fixture(scope="module", params=["sd3-medium", "sd35-medium", "flux-dev"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A miniature of each form."""
    return Family(str(request.param), tmp_path_factory.mktemp(str(request.param)))


def run(engine: StepEngine, *lanes: LaneRequest) -> dict[str, torch.Tensor]:
    """The latents of lanes run together."""
    for lane in lanes:
        engine.add(lane)
    return rest(engine)


def rest(engine: StepEngine) -> dict[str, torch.Tensor]:
    """What becomes of the lanes in hand."""
    found = {}
    while engine.lanes:
        for key, outcome in engine.step():
            assert isinstance(outcome, LaneResult), outcome
            found[key] = outcome.latents
    return found


def close(mine: torch.Tensor, other: torch.Tensor) -> None:
    """Equal but for the rounding of sums in another order."""
    torch.testing.assert_close(mine, other, atol=3e-4, rtol=3e-4)


def scaled(uses: Sequence[tuple[str, dict[str, torch.Tensor], float]], pipeline: Any, folder: Path) -> None:
    """Load adapters into a pipeline and set their scales."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of more adapters than one
        for name, tensors, _ in uses:
            pipeline.load_lora_weights(saved(tensors, folder, name), adapter_name=name)
    pipeline.set_adapters([name for name, _, _ in uses], [scale for _, _, scale in uses])


def test_one_adapter_equals_diffusers(family: Family, tmp_path: Path) -> None:
    """In all linear layers and the text encoders, from a file that diffusers loads too."""
    tensors = diffusers_names(products(family.base, rank=4))
    pipeline = family.pipeline()
    plain = family.ask(pipeline, 11)
    scaled([("mine", tensors, 0.7)], pipeline, tmp_path)
    expected = family.ask(pipeline, 11)
    mine = run(family.engine(), family.lane("only", 11, AdapterUse(adapter(family.base, tensors), 0.7)))["only"]
    close(mine, expected)
    assert (expected - plain).abs().max() > 0.05


def test_several_adapters_equal_diffusers_in_both_ways(family: Family, tmp_path: Path) -> None:
    """With scales of their own, one of them negative, of other ranks and layers."""
    made = {
        "one": products(family.base, 1, 4), "two": products(family.base, 2, 16, only="attn"),
        "three": products(family.base, 3, 1, only="transformer."),
    }  # fmt: skip
    scales = {"one": 0.8, "two": -0.5, "three": 1.3}
    pipeline = family.pipeline()
    scaled([(name, diffusers_names(p), scales[name]) for name, p in made.items()], pipeline, tmp_path)
    expected = family.ask(pipeline, 12)
    uses = [AdapterUse(adapter(family.base, diffusers_names(p), name), scales[name]) for name, p in made.items()]
    close(run(family.engine(), family.lane("only", 12, *uses))["only"], expected)
    close(run(family.engine(LoraMode.PATCHED), family.lane("only", 12, *uses))["only"], expected)
    backwards = run(family.engine(), family.lane("only", 12, *reversed(uses)))["only"]
    assert torch.equal(backwards, run(family.engine(), family.lane("only", 12, *uses))["only"])


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_makes_the_same_image(family: Family, format_name: str) -> None:
    """However its tensors are named."""
    made = products(family.base, 4, alpha=3.0, only="transformer.")
    uses = [AdapterUse(adapter(family.base, names(made))) for names in (diffusers_names, FORMATS[format_name])]
    images = [run(family.engine(), family.lane("only", 13, use))["only"] for use in uses]
    close(*images)


def test_names_of_the_original_code_equal_diffusers_own_conversion(family: Family, tmp_path: Path) -> None:
    """Where diffusers reads them, which is for FLUX, and where it does not expect FLUX's own widths."""
    if not family.is_flux:
        pytest.skip("diffusers reads them for FLUX alone")
    tensors = original_names(family.base, seed=5)
    tensors = {key: value for key, value in tensors.items() if "double_blocks" in key}
    pipeline = family.pipeline()
    scaled([("mine", tensors, 1.0)], pipeline, tmp_path)
    mine = run(family.engine(), family.lane("only", 14, AdapterUse(adapter(family.base, tensors))))["only"]
    close(mine, family.ask(pipeline, 14))


def mixed(family: Family) -> list[LaneRequest]:
    """Lanes of several sets, sizes and step ranges, some without adapters."""
    one, two, three = family.adapter(1), family.adapter(2, 16, "attn"), family.adapter(3, 1, "transformer.")
    return [
        family.lane("plain", 1), family.lane("one", 2, AdapterUse(one)), family.lane("two", 3, AdapterUse(two, 0.5)),
        family.lane("one less", 4, AdapterUse(one, 0.3), width=96), family.lane("small", 5, width=96, height=160),
        family.lane("both", 6, AdapterUse(two), AdapterUse(three, -0.6), steps=6),
        family.lane("late", 7, AdapterUse(three, start=0.5)), family.lane("one again", 8, AdapterUse(one)),
    ]  # fmt: skip


def test_lanes_of_different_sets_share_a_batch_and_none_sees_the_others(family: Family) -> None:
    """Every lane, with adapters or without, has the bits it has alone."""
    lanes = mixed(family)
    together = run(family.engine(), *lanes)
    for lane in lanes:
        assert torch.equal(run(family.engine(), lane)[lane.key], together[lane.key]), lane.key
    without = run(family.engine(), replace(lanes[1], adapters=()))["one"]
    assert not torch.equal(without, together["one"])


def test_both_ways_of_applying_make_the_same_images(family: Family) -> None:
    """Lanes of several sets, patched one set after another, and grouped."""
    lanes = mixed(family)
    grouped, patched = run(family.engine(), *lanes), run(family.engine(LoraMode.PATCHED), *lanes)
    for key in grouped:
        close(patched[key], grouped[key])
    family.backbone.adapters.restore()
    assert torch.equal(run(family.engine(), lanes[0])["plain"], grouped["plain"])


def break_patching(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> list[Exception]:
    """Let patching raise an error so many times, each when three layers are patched; answers those raised."""
    whole, layers, raised = LoraLayers._patch_layer, count(1), []

    def patch_layer(self: LoraLayers, number: int, products: Sequence[Any]) -> None:
        whole(self, number, products)
        if len(raised) < times and next(layers) % 3 == 0:
            raised.append(error)
            raise error

    monkeypatch.setattr(LoraLayers, "_patch_layer", patch_layer)
    return raised


def own_weights(family: Family) -> int:
    """The hash of the model's weights as they are without any adapter patched in."""
    family.backbone.adapters.restore()
    return weights_hash(layer.weight for layer in family.backbone.adapters._layers)


def test_where_memory_is_too_short_to_patch_lanes_are_grouped(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """They all end, in the bits of grouped lanes; the weights are the model's own, and not every step tries again."""
    lanes, start = mixed(family), own_weights(family)
    grouped = run(family.engine(), *lanes)
    raised = break_patching(monkeypatch, torch.OutOfMemoryError("out of memory"), 100)
    found = run(family.engine(LoraMode.PATCHED), *lanes)
    assert len(raised) == 1
    assert family.backbone.adapters.patched == ()
    assert weights_hash(layer.weight for layer in family.backbone.adapters._layers) == start
    for key in grouped:
        assert torch.equal(found[key], grouped[key]), key


def test_a_set_that_cannot_be_patched_fails_with_its_lanes_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes of other sets and of none go on to what they are without it."""
    one, two = family.adapter(1), family.adapter(2, 16, "attn")
    others = [family.lane("two", 3, AdapterUse(two)), family.lane("plain", 4)]
    alone = {lane.key: run(family.engine(LoraMode.PATCHED), lane)[lane.key] for lane in others}
    start = own_weights(family)
    lanes = [family.lane("a", 1, AdapterUse(one)), family.lane("b", 2, AdapterUse(one)), *others]
    break_patching(monkeypatch, RuntimeError("a failing kernel"), 1)
    engine, found = family.engine(LoraMode.PATCHED), {}
    for lane in lanes:
        engine.add(lane)
    while engine.lanes:
        found |= dict(engine.step())
    for key in "ab":
        assert isinstance(found[key], NodeError)
        assert found[key].message == "The denoising step failed: RuntimeError."
    for key, latents in alone.items():
        assert torch.equal(found[key].latents, latents), key
    assert own_weights(family) == start


def test_an_adapter_works_in_its_range_of_steps_alone(family: Family) -> None:
    """A range of all steps is the whole, an empty one is none, and halves of two make another image than either."""
    one = family.adapter(1, only="transformer.")
    whole = run(family.engine(), family.lane("x", 1, AdapterUse(one)))["x"]
    halves = [
        run(family.engine(), family.lane("x", 1, AdapterUse(one, start=a, end=b)))["x"]
        for a, b in ((0.0, 1.0), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0))
    ]
    assert torch.equal(halves[0], whole)
    assert torch.equal(halves[1], run(family.engine(), family.lane("x", 1))["x"])
    assert not torch.equal(halves[2], whole)
    assert not torch.equal(halves[2], halves[3])


def test_a_lane_goes_on_from_a_checkpoint_with_its_adapters(family: Family) -> None:
    """On another engine, bit for bit."""
    request = family.lane("x", 9, AdapterUse(family.adapter(1), 0.5), AdapterUse(family.adapter(2), end=0.75))
    whole = run(family.engine(), request)["x"]
    engine = family.engine()
    engine.add(request)
    engine.step()
    engine.step()
    checkpoint = engine.checkpoint("x")
    assert torch.equal(run(family.engine(), replace(request, checkpoint=checkpoint))["x"], whole)


def test_an_adapter_may_come_after_its_lane_began(family: Family) -> None:
    """From the step at which it comes it is at work, as if its range had begun there."""
    one = family.adapter(1, only="transformer.")
    engine = family.engine()
    engine.add(family.lane("x", 9))
    engine.step()
    engine.adapt("x", (AdapterUse(one),))
    assert torch.equal(rest(engine)["x"], run(family.engine(), family.lane("x", 9, AdapterUse(one, start=0.25)))["x"])


def test_what_does_not_fit_is_refused_before_anything_is_touched(family: Family) -> None:
    """An adapter of other layers, too many, one twice, a scale that is none: the engine stays as it was."""
    engine, one = family.engine(), family.adapter(1)
    shapes = {path: (outputs + 8, inputs) for path, (outputs, inputs) in family.base.shapes.items()}
    foreign = adapter(
        BaseLayers("other", family.base.family, shapes), diffusers_names(products(replace(family.base, shapes=shapes)))
    )
    lane = family.lane("x", 1)
    for uses, error in (
        ((AdapterUse(foreign),), InvalidAdapter), ((AdapterUse(one), AdapterUse(one, 0.5)), RequestError),
        (tuple(AdapterUse(family.adapter(i)) for i in range(5)), RequestError),
        ((AdapterUse(one, float("nan")),), RequestError), ((AdapterUse(one, 1e9),), RequestError),
    ):  # fmt: skip
        with pytest.raises(error):
            engine.add(replace(lane, adapters=uses))
    assert engine.lanes == 0


def test_text_encoders_are_their_own_again_after_an_adapter(family: Family, tmp_path: Path) -> None:
    """With it the encoding is the pipeline's; without it, bit for bit what it was."""
    before = family.text.encode([PROMPT])[0]
    made = products(family.base, 6, only="text_encoder")
    own = adapter(family.base, kohya_names(made))
    mine = family.text.encode([PROMPT], ((own, 0.6),))[0]
    pipeline = family.pipeline()
    scaled(
        [("mine", diffusers_names(made) | diffusers_names(products(family.base, 6, only="to_q")), 0.6)],
        pipeline,
        tmp_path,
    )
    if family.is_flux:
        tokens, pooled, _ = pipeline.encode_prompt(PROMPT, None, max_sequence_length=LENGTH)
    else:
        tokens, _, pooled, _ = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, max_sequence_length=LENGTH)
    torch.testing.assert_close(mine.tokens, tokens[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.pooled, pooled[0], atol=1e-4, rtol=1e-4)
    assert not torch.equal(mine.pooled, before.pooled)
    after = family.text.encode([PROMPT])[0]
    assert torch.equal(after.tokens, before.tokens)
    assert torch.equal(after.pooled, before.pooled)
