"""A third family is one file: AuraFlow, in `third_family`, is configured, loaded, adapted and served with no other."""

import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from transformers import UMT5Config, UMT5EncoderModel

from lego_serve import config
from lego_serve.core.addons import AdapterRequest
from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import DenoiseInput, LoadAdaptersInput, LoadAdaptersOutput
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import CheckpointError, InvalidAdapter
from lego_serve.models import families as family_files
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Reuse
from lego_serve.models.registry import ModelSpec, families
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from lego_serve.zoo.architecture import build_scheduler, build_vae
from tests.support.builders import raw_lane
from tests.support.lora.adapters import adapter, diffusers_names, kohya_names, products, saved
from tests.support.nodes import backbone_node, denoised, encoded, latents_of, text_node
from tests.support.tiny_models import WORDS, word_tokenizer
from tests.support.transformers import captured, tokens_of

FAMILY, WIDTH, LENGTH, STEPS = "auraflow", 64, 8, 4
PROMPT, NEGATIVE = "a red circle on the left", "a blue square"
BYTES = 1 << 24


@pytest.fixture(scope="module", autouse=True)
def third_family() -> Iterator[None]:
    """Its one file lies among the others' for as long as these tests run."""
    name = f"{family_files.__name__}.{FAMILY}"
    assert FAMILY not in families()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            family_files,
            "__path__",
            [*family_files.__path__, str(Path(__file__).parents[2] / "support" / "third_family")],
        )
        importlib.invalidate_caches()
        yield
    sys.modules.pop(name, None)
    vars(family_files).pop(FAMILY, None)


@pytest.fixture(scope="module")
def pipeline() -> AuraFlowPipeline:
    """diffusers' pipeline of a small one with random weights."""
    tokenizer = word_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(8)
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(WORDS), d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=4)
    )
    transformer = AuraFlowTransformer2DModel(
        sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_mmdit_layers=2, num_single_dit_layers=2,
        attention_head_dim=16, num_attention_heads=4, joint_attention_dim=WIDTH, caption_projection_dim=WIDTH,
        pos_embed_max_size=24 * 24,
    )  # fmt: skip
    for weight in transformer.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    made = AuraFlowPipeline(tokenizer, encoder.eval(), build_vae(), transformer.eval(), build_scheduler())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def spec(pipeline: AuraFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """It on disk."""
    folder = tmp_path_factory.mktemp(FAMILY)
    pipeline.save_pretrained(folder)
    return ModelSpec("aura", str(folder), family=FAMILY, dtype="float32", max_sequence_length=LENGTH)


@pytest.fixture(scope="module")
def family(spec: ModelSpec) -> OfflinePipeline:
    """All its nodes' models, loaded as any family's are."""
    return OfflinePipeline.load(spec)


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> BaseLayers:
    """The layers that adapters may change."""
    return base_layers(spec)


def lane(family: OfflinePipeline, key: str, seed: int, *uses: AdapterUse, **more: Any) -> LaneRequest:
    """A guided lane."""
    cond, negative = family.text.encode([PROMPT, NEGATIVE])
    given = {"width": 128, "height": 128, "steps": STEPS, "guidance": 4.0} | more
    return LaneRequest(key, seed=seed, cond=cond, negative=negative, adapters=uses, **given)


def run(spec: ModelSpec, *lanes: LaneRequest, mode: LoraMode = LoraMode.GROUPED) -> dict[str, torch.Tensor]:
    """The latents of lanes that run together in an engine of their own."""
    engine = StepEngine(*load_backbone(spec), StepBatcher(fifo, StepLimits(), adapters=mode), lambda: 0.0)
    for each in lanes:
        engine.add(each)
    found = {}
    while engine.lanes:
        for key, outcome in engine.step():
            assert isinstance(outcome, LaneResult), outcome
            found[key] = outcome.latents
    return found


def ask(pipeline: AuraFlowPipeline, seed: int) -> torch.Tensor:
    """diffusers' latents of the same lane."""
    latents: torch.Tensor = pipeline(
        PROMPT, NEGATIVE, width=128, height=128, num_inference_steps=STEPS, guidance_scale=4.0, output_type="latent",
        generator=torch.Generator().manual_seed(seed), max_sequence_length=LENGTH,
    ).images[0]  # fmt: skip
    return latents


def close(mine: torch.Tensor, other: torch.Tensor) -> None:
    """Equal but for the rounding of sums in another order."""
    torch.testing.assert_close(mine, other, atol=3e-4, rtol=3e-4)


def mixed(family: OfflinePipeline, base: BaseLayers) -> list[LaneRequest]:
    """Lanes of several sizes, steps, guidances and sets of adapters."""
    one = adapter(base, diffusers_names(products(base, 1)), "one")
    two = adapter(base, diffusers_names(products(base, 2, 16, only="attn")), "two")
    return [
        lane(family, "plain", 1),
        lane(family, "one", 2, AdapterUse(one, 0.8)),
        lane(family, "two", 3, AdapterUse(two, -0.5), width=96),
        lane(family, "wide", 4, width=192, height=96, steps=6),
        lane(family, "both", 5, AdapterUse(one, 0.3), AdapterUse(two), height=160),
        lane(family, "unguided", 6, AdapterUse(one), guidance=1.0, sampler="dpmpp_2m"),
    ]


def test_the_configuration_takes_its_name(spec: ModelSpec, tmp_path: Path) -> None:
    """And names it among those there are where a name is none."""
    file = tmp_path / "aura.yaml"
    file.write_text(f"models: {{aura: {{path: {spec.path}, family: {FAMILY}}}}}")
    assert config.load(file).models["aura"].family == FAMILY
    file.write_text(f"models: {{aura: {{path: {spec.path}, family: aura}}}}")
    with pytest.raises(Exception, match="there is auraflow, flux, sd3"):
        config.load(file)


def test_its_images_are_those_of_diffusers_pipeline(
    family: OfflinePipeline, spec: ModelSpec, pipeline: AuraFlowPipeline
) -> None:
    """From the prompt to the latents; and decoded they are images."""
    expected = ask(pipeline, 11)
    close(run(spec, lane(family, "only", 11))["only"], expected)
    image = family.generate([PROMPT], seeds=[11], steps=STEPS, negative=NEGATIVE)
    assert torch.equal(image, family.vae.decode(run(spec, lane(family, "only", 11))["only"][None]))


def test_its_lanes_have_the_bits_they_have_alone(family: OfflinePipeline, spec: ModelSpec, base: BaseLayers) -> None:
    """Among others of any size, guidance and adapters, in one pass."""
    lanes = mixed(family, base)
    together = run(spec, *lanes)
    for each in lanes:
        assert torch.equal(run(spec, each)[each.key], together[each.key]), each.key


def test_its_adapters_are_patched_and_grouped_alike(family: OfflinePipeline, spec: ModelSpec, base: BaseLayers) -> None:
    """Those of every layer, of image rows, text rows, both and modulation; without them the image is another."""
    lanes = mixed(family, base)
    grouped, patched = run(spec, *lanes), run(spec, *lanes, mode=LoraMode.PATCHED)
    for each in lanes:
        close(patched[each.key], grouped[each.key])
    without = run(spec, replace(lanes[1], adapters=()))["one"]
    assert (grouped["one"] - without).abs().max() > 0.05


def test_its_adapters_are_diffusers_own(
    family: OfflinePipeline, spec: ModelSpec, base: BaseLayers, pipeline: AuraFlowPipeline, tmp_path: Path
) -> None:
    """A file that diffusers loads makes the image it makes there."""
    tensors = diffusers_names(products(base, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(saved(tensors, tmp_path))
        expected = ask(pipeline, 12)
        pipeline.unload_lora_weights()
    close(run(spec, lane(family, "only", 12, AdapterUse(adapter(base, tensors))))["only"], expected)


def refused(base: BaseLayers, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> str:
    """Why an adapter is no adapter of a model."""
    with pytest.raises(InvalidAdapter) as caught:
        adapter(base, tensors, "style", metadata)
    return caught.value.message


def test_adapters_of_other_families_are_refused_by_name(base: BaseLayers, tiny_folder: Path) -> None:
    """Both ways: one for another family here, and one of this for another; by what it says, or by how it looks."""
    other = base_layers(ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0))
    mine, theirs = (products(of, only="transformer_blocks.0.attn") for of in (base, other))
    told = {"modelspec.architecture": "stable-diffusion-3-medium/lora"}
    assert "was made for sd3, as it says, and model aura is auraflow" in refused(base, diffusers_names(mine), told)
    assert "looks made for sd3, and model aura is auraflow" in refused(base, diffusers_names(theirs))
    told = {"ss_base_model_version": "AuraFlow-v0.3"}
    assert "was made for auraflow, as it says, and model tiny is sd3" in refused(other, diffusers_names(theirs), told)
    assert "looks made for auraflow, and model tiny is sd3" in refused(other, kohya_names(mine))


async def test_its_nodes_are_the_nodes_of_every_family(
    family: OfflinePipeline, spec: ModelSpec, base: BaseLayers, tmp_path: Path
) -> None:
    """Prompt, adapter and denoising through the three nodes, held to strict: the image the engine makes by itself."""
    saved(diffusers_names(products(base, 4)), tmp_path, "style")
    lora_node = LoraNode(spec, LoraOptions((tmp_path,), BYTES))
    text, backbone = text_node(spec, 1, lora_node), backbone_node(spec, lora_node, adapter_mode="auto")
    asked = LoadAdaptersInput((AdapterRequest("style", 0.7),))
    adapters: LoadAdaptersOutput = (await lora_node.run(NodeCall(asked))).reply
    cond, negative = await encoded(text, PROMPT), await encoded(text, NEGATIVE)
    request = DenoiseInput(cond, 128, 128, STEPS, guidance=4.0, seed=5, n=1, negative=negative, adapters=adapters)
    latents = latents_of(await denoised(backbone, NodeCall(request)))
    style: Adapter = adapter(base, diffusers_names(products(base, 4)))
    expected = run(spec, lane(family, "only", 5, AdapterUse(style, 0.7)))["only"]
    close(torch.from_numpy(np.array(latents[0])), expected)


def test_its_edits_compute_the_rows_they_need(spec: ModelSpec) -> None:
    """With what a whole pass left behind, some rows come out as in that pass."""
    backbone, _ = load_backbone(spec)
    one = raw_lane(1, 12, 20, channels=8, text_width=WIDTH, guidance=1.0).for_model(backbone)
    kept, active = Activations(ACTIVATION_CODECS["float32"]), torch.tensor([3, 4, 17, 40, 59])
    whole = backbone.velocity([replace(one, capture=kept)])[0]
    part = backbone.velocity([replace(one, reuse=Reuse(active, kept))])[0]
    torch.testing.assert_close(tokens_of(part)[active], tokens_of(whole)[active], rtol=1e-4, atol=2e-5)
    assert len(kept.by_attention) == len(backbone.attentions)


def test_its_edits_may_read_the_text_of_their_unconditional_branch(spec: ModelSpec) -> None:
    """In blocks of two streams and of one: with what the lane itself left behind, as in the whole pass."""
    backbone, _ = load_backbone(spec)
    lane = raw_lane(1, 12, 20, channels=8, text_width=WIDTH).for_model(backbone)
    whole, cond, negative = captured(backbone, lane)
    active = torch.tensor([3, 4, 17, 40, 59])
    part = backbone.velocity([replace(lane, reuse=Reuse(active, cond, negative, reads_text=True))])[0]
    torch.testing.assert_close(tokens_of(part)[active], tokens_of(whole)[active], rtol=1e-4, atol=5e-5)


def test_what_its_file_does_not_say_it_does_not_take(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no ControlNets; and were there no `LORA_TARGETS` in it, no adapters: refused before anything is loaded."""
    for name in (FAMILY, "common"):  # a file of that name is there, but no family
        with pytest.raises(CheckpointError, match=f"model edges: family '{name}' has no ControlNets"):
            load_controlnet(replace(spec, name="edges"), replace(spec, family=name))
    lora_node = LoraNode(spec, LoraOptions((tmp_path,), BYTES))
    monkeypatch.delattr(sys.modules[f"{family_files.__name__}.{FAMILY}"], "LORA_TARGETS")
    with pytest.raises(CheckpointError, match="model aura: family 'auraflow' takes no adapters"):
        base_layers(spec)
    with pytest.raises(CheckpointError, match="takes no adapters"):
        backbone_node(spec, lora_node)
