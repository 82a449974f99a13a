"""Weights that go from a device to host memory and back, on a device that is not the CPU."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes import host_weights
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.backbone_model import BackboneModel
from lego_serve.serving.nodes.controlnets import sources
from lego_serve.serving.nodes.host_weights import HostWeights, device_bytes
from lego_serve.serving.nodes.options import BackboneOptions, ControlNetPlan, TextEncoderOptions
from lego_serve.serving.nodes.peers import NodePeers
from lego_serve.serving.nodes.tensors import tensors_in
from lego_serve.serving.nodes.text_encoder import TextEncoderNode
from tests.support.engine.emulated_device import GPU, NAME, used_bytes
from tests.support.lora.adapters import adapter, kohya_names, products
from tests.support.tiny_models import control_miniature

LOADS: dict[str, Callable[[ModelSpec], Any]] = {
    "text_encoder": load_text_encoder,
    "backbone": BackboneModel.load,
    "vae": load_vae,
}


@pytest.fixture(autouse=True)
def _collected() -> None:
    """What earlier tests have left in circles is no part of what is counted."""
    gc.collect()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which no weight is a multiple."""
    monkeypatch.setattr(host_weights, "PIECE_BYTES", 4099)


@pytest.fixture
def on_device(spec: ModelSpec) -> ModelSpec:
    """The model on the device."""
    return replace(spec, device=NAME)


def bits(model: object) -> list[tuple[torch.Size, tuple[int, ...], bytes]]:
    """Every weight's shape, strides and bytes."""
    found = []
    for tensor in tensors_in(model):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.append((tensor.shape, tensor.stride(), flat.view(torch.uint8).numpy().tobytes()))
    return found


def places(model: object) -> list[int]:
    """For each weight, the first one that lies in the same memory."""
    storages = [tensor.untyped_storage().data_ptr() for tensor in tensors_in(model)]
    return [storages.index(each) for each in storages]


@pytest.mark.parametrize("linear", ["dense", "int8"])
@pytest.mark.parametrize("component", LOADS)
def test_a_model_comes_back_with_its_bits_and_its_device_has_no_byte_of_it_meanwhile(
    on_device: ModelSpec, component: str, linear: str, small_pieces: None
) -> None:
    """Not even of what it has in common, which it has in common again."""
    before = used_bytes()
    model = LOADS[component](replace(on_device, linear=linear))
    wanted, shared, size = bits(model), places(model), used_bytes() - before
    assert size == device_bytes(model) > 0
    assert not any(tensor.device.type == "cpu" and tensor.numel() > 1000 for tensor in tensors_in(model))
    copy = HostWeights(model)
    assert (used_bytes() - before, copy.size_bytes) == (0, size)
    assert copy.restored() is model
    assert (bits(model), places(model), used_bytes() - before) == (wanted, shared, size)
    again = HostWeights(model)
    again.drop()
    assert used_bytes() == before


@pytest.mark.parametrize("component", LOADS)
def test_a_model_on_the_cpu_has_nothing_to_move(spec: ModelSpec, component: str) -> None:
    """Its memory is the host's."""
    model = LOADS[component](spec)
    wanted = bits(model)
    copy = HostWeights(model)
    assert (copy.size_bytes, device_bytes(model), bits(model)) == (0, 0, wanted)


def test_what_a_model_computed_before_it_computes_again(on_device: ModelSpec, small_pieces: None) -> None:
    """Bit for bit; what it had kept of results is made anew."""
    from lego_serve.engine.calibration import sample_lane

    backbone, _ = load_backbone(on_device)
    encoder = load_text_encoder(on_device)
    [wanted], [cond] = backbone.velocity([sample_lane(backbone, 4)]), encoder.encode(["a red circle"])
    before, size = used_bytes(), device_bytes((backbone, encoder))
    copies = HostWeights(backbone), HostWeights(encoder)
    assert used_bytes() <= before - size < before
    for copy in copies:
        copy.restored()
    assert torch.equal(backbone.velocity([sample_lane(backbone, 4)])[0].cpu(), wanted.cpu())
    [again] = encoder.encode(["a red circle"])
    assert torch.equal(again.tokens.cpu(), cond.tokens.cpu())


class Part:
    """Weights side by side in one memory, the same weight twice, one on the CPU, and a result that is kept."""

    def __init__(self) -> None:
        both = torch.arange(12.0).to(GPU)
        self.upper, self.lower, self.turned = both[:4], both[4:], both.view(3, 4).t()
        self.again, self.mine = [self.upper], torch.ones(3)
        self.module = torch.nn.Linear(3, 2).to(GPU)
        self.doubled = lru_cache(lambda: both * 2)


def test_what_lies_in_one_memory_does_so_again_and_goes_once() -> None:
    """Written through one, read through another."""
    part = Part()
    part.doubled()
    wanted, before = bits(part), used_bytes()
    copy = HostWeights(part)
    assert copy.size_bytes == 4 * (12 + 8)
    assert before - used_bytes() >= 4 * (8 + 12), "`both` itself is held by the function alone"
    assert part.mine.sum() == 3
    copy.restored()
    assert bits(part) == wanted
    assert part.again[0] is part.upper
    part.upper.zero_()
    assert part.turned.cpu()[:, 0].sum() == 0


async def test_what_adapters_changed_is_undone_before_weights_are_kept(on_device: ModelSpec, base: BaseLayers) -> None:
    """In text encoders and denoiser; and the next node of the model has the weights of its files."""
    made = adapter(base, kohya_names(products(base, 2, strength=0.3)))
    text = TextEncoderNode(on_device, TextEncoderOptions(max_batch=1))
    backbone = BackboneNode(on_device, BackboneOptions())
    encoder, model = text._encoder, backbone._backbone
    wanted = bits(encoder), bits(model)
    encoder.encode(["a red circle"], ((made, 1.0),))
    model.adapters.patch(((made.part("transformer"), 1.0),))
    assert bits(encoder) != wanted[0]
    assert bits(model) != wanted[1]
    for node in (text, backbone):
        assert node.stop() > 0
    copies = text.to_host(), backbone.to_host()
    again = TextEncoderNode(on_device, TextEncoderOptions(max_batch=1), NodePeers(host_weights=copies[0]))
    anew = BackboneNode(on_device, BackboneOptions(), NodePeers(host_weights=copies[1]))
    assert (again._encoder, anew._backbone) == (encoder, model)
    assert (bits(encoder), bits(model)) == wanted
    for node in (again, anew):
        node.close()
    assert device_bytes((encoder, model)) == 0


async def test_controlnets_that_stay_go_with_their_backbone_and_are_not_read_again(
    on_device: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the size that it takes."""
    transformer = SD3Transformer2DModel.from_pretrained(Path(on_device.path) / "transformer")
    control_miniature(transformer).save_pretrained(tmp_path)
    net = ModelSpec("net", str(tmp_path), dtype="float32", device=NAME)
    options = BackboneOptions(controlnets=(ControlNetPlan(net, "colocated", "m.net"),))
    node = BackboneNode(on_device, options)
    alone = device_bytes(node._backbone)
    assert node.stop() > alone
    copy = node.to_host()
    source = node._controlnets.sources["net"]
    assert device_bytes(source) == 0
    monkeypatch.setattr(sources, "load_controlnet", None)
    again = BackboneNode(on_device, options, NodePeers(host_weights=copy))
    assert again._controlnets.sources == {"net": source}
    assert device_bytes(source) > 0
