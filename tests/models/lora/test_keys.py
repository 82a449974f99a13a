"""The names of an adapter's tensors: every format means the same layers, and what means none is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lego_serve.errors import InvalidAdapter
from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.checkpoint import peek_adapter_file
from lego_serve.models.lora.loading import base_layers, load_adapter
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from tests.support.lora.adapters import FORMATS, adapter, diffusers_names, original_names, products, saved
from tests.support.lora.unsound import FAULTS, bad
from tests.support.tiny_models import flux_miniature, miniature


@pytest.fixture(scope="module", params=["sd3-medium", "sd35-medium", "flux-dev"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A miniature of each form."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    (flux_miniature if name.startswith("flux") else miniature)(name).save_pretrained(folder)
    family = "flux" if name.startswith("flux") else "sd3"
    return ModelSpec("mine", str(folder), family=family, dtype="float32", max_sequence_length=8)


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> BaseLayers:
    """Its layers."""
    return base_layers(spec)


def same(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters change the same layers by the same products, but for the rounding of a scale."""
    return one.pairs.keys() == other.pairs.keys() and all(
        torch.allclose(
            one.pairs[path].up @ one.pairs[path].down, other.pairs[path].up @ other.pairs[path].down, atol=1e-6
        )
        for path in one.pairs
    )


def test_the_layers_of_the_config_are_those_of_the_backbone(spec: ModelSpec, base: BaseLayers) -> None:
    """Known without a weight being read."""
    backbone, _ = load_backbone(spec)
    own = {path: shape for path, shape in base.shapes.items() if path.startswith("transformer.")}
    assert own == backbone.adapters.shapes


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_means_the_same(base: BaseLayers, format_name: str) -> None:
    """Also where alpha is not the rank."""
    made = products(base, rank=4, alpha=3.0, only="transformer." if format_name == "peft" else "")
    expected = adapter(base, diffusers_names(made))
    assert len(expected.pairs) == len(made.pairs)
    assert same(adapter(base, FORMATS[format_name](made)), expected)


def test_names_of_the_original_code_mean_our_layers_side_by_side(base: BaseLayers) -> None:
    """A fused product is split by outputs, its down weight shared; every block's layers are reached."""
    found = adapter(base, original_names(base))
    paths = {p for p in base.shapes if p.startswith("transformer.") and "x_embedder" not in p}
    assert set(found.pairs) | {"transformer.proj_out", "transformer.norm_out.linear"} == paths | {
        "transformer.proj_out",
        "transformer.norm_out.linear",
    }
    q, k = (found.pairs[f"transformer.transformer_blocks.0.attn.{n}"] for n in ("to_q", "to_k"))
    assert torch.equal(q.down, k.down)
    assert not torch.equal(q.up, k.up)


def test_the_original_order_of_shift_and_scale_is_swapped_where_diffusers_swaps_it(base: BaseLayers) -> None:
    """In the last norm: its halves change places."""
    outputs, inputs = base.shapes["transformer.norm_out.linear"]
    up = torch.arange(outputs, dtype=torch.float32)[:, None] / outputs
    key = "lora_unet_final_layer_adaLN_modulation_1"
    found = adapter(base, {f"{key}.lora_down.weight": torch.ones(1, inputs), f"{key}.lora_up.weight": up})
    assert torch.equal(found.pairs["transformer.norm_out.linear"].up, torch.cat(up.chunk(2)[::-1]))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"transformer.lora_alpha": 8, "transformer.r": 4}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 4.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_q": 2}}, 0.5),
        ({"text_encoder.lora_alpha": 8}, 1.0),
        ({}, 1.0),
    ],
)
def test_what_peft_says_of_alpha_is_heard(base: BaseLayers, settings: dict[str, Any], scale: float) -> None:
    """From the metadata that diffusers writes."""
    import json

    made = products(base, rank=4, only="transformer_blocks.0.attn.to_q")
    found = adapter(base, diffusers_names(made), metadata={"lora_adapter_metadata": json.dumps(settings)})
    path = next(iter(made.pairs))
    torch.testing.assert_close(found.pairs[path].up, made.pairs[path][1] * scale)


VALUES = {
    "an alpha that is NaN",
    "a product that is huge",
    "a huge alpha",
    "an alpha past every product",
    "an alpha of the least whole number",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_does_not_fit_the_model_is_refused(base: BaseLayers, kind: str) -> None:
    """In one line that names the adapter and the fault, and both models where it was made for another."""
    tensors, metadata = bad(base, kind)
    with pytest.raises(InvalidAdapter, match=FAULTS[kind]) as caught:
        adapter(base, tensors, "sample", metadata)
    assert caught.value.message.startswith("Adapter sample ")
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize("kind", FAULTS)
def test_a_header_tells_what_does_not_fit_the_model(base: BaseLayers, kind: str, tmp_path: Path) -> None:
    """In the same words, but for what lies in values."""
    tensors, metadata = bad(base, kind)
    path = tmp_path / "sample.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, metadata)
    if kind in VALUES:
        assert load_adapter("sample", peek_adapter_file("sample", path), base).pairs
        return
    with pytest.raises(InvalidAdapter, match=FAULTS[kind]):
        load_adapter("sample", peek_adapter_file("sample", path), base)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_header_tells_the_layers_that_an_adapter_changes(base: BaseLayers, format_name: str, tmp_path: Path) -> None:
    """All of them, whatever its format."""
    made = products(base, rank=4, alpha=3.0, only="transformer." if format_name == "peft" else "")
    path = saved(FORMATS[format_name](made), tmp_path)
    assert load_adapter("mine", peek_adapter_file("mine", path), base).pairs.keys() == made.pairs.keys()


def test_an_adapter_crosses_to_another_process_whole(base: BaseLayers) -> None:
    """As bytes, with its id and its file's hash."""
    made = adapter(base, original_names(base))
    other = Adapter.from_bytes(made.to_bytes())
    assert (other.adapter_id, other.sha256, other.size_bytes) == (made.adapter_id, made.sha256, made.size_bytes)
    assert all(torch.equal(other.pairs[p].up, made.pairs[p].up) for p in made.pairs)


def test_nothing_of_an_adapter_depends_on_the_folder(tmp_path: Path, base: BaseLayers) -> None:
    """Its identity is the hash of its bytes."""
    tensors = diffusers_names(products(base))
    assert adapter(base, tensors, "one").sha256 == adapter(base, tensors, "two").sha256
