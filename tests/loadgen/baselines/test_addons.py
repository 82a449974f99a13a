import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lego_serve.zoo.train.controlnet import build_controlnet
from loadgen.addons.images import outlines
from loadgen.baselines.addons import Addons, Control, Lora
from loadgen.baselines.sd3_loading import load_pipeline, make_image

SIZE = {"width": 96, "height": 96, "steps": 2, "guidance": 4.0, "seed": 3, "max_sequence_length": 0}


@pytest.fixture(scope="module")
def addons(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Addons:
    """A pipeline with three adapters and two ControlNets beside it, which keeps one adapter and one ControlNet."""
    folder = tmp_path_factory.mktemp("addons")
    pipeline = load_pipeline(tiny_folder)
    for place in ("adapters", "controlnets"):
        (folder / place).mkdir()
    layers = {name: layer for name, layer in pipeline.transformer.named_modules() if name.endswith("attn.to_q")}
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        pairs = {}
        for name, layer in layers.items():
            pairs[f"transformer.{name}.lora_A.weight"] = torch.randn(4, layer.in_features, generator=generator)
            pairs[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=generator)
        save_file(pairs, folder / "adapters" / f"a{number}.safetensors")
    for number in range(2):
        net = build_controlnet(pipeline.transformer, layers=1)
        torch.manual_seed(number)
        for layer in net.controlnet_blocks:
            torch.nn.init.normal_(layer.weight)
        net.save_pretrained(folder / "controlnets" / f"c{number}")
    settings = folder / "addons.json"
    folders = {name: str(folder / name) for name in ("adapters", "controlnets")}
    limits = {"adapter_bytes": 1, "controlnet_bytes": 1, "adapter_load_s": 0.0, "controlnet_load_s": 0.0}
    settings.write_text(json.dumps(folders | limits))
    return Addons(pipeline, settings)


def made(addons: Addons, adapters: tuple[str, ...] = (), nets: tuple[str, ...] = ()) -> np.ndarray:
    """One image with these."""
    controls = [Control(name, outlines(96, 96, 0), 0.8) for name in nets]
    pipeline, more = addons.prepare([Lora(name, 1.0) for name in adapters], controls)
    return np.asarray(make_image(pipeline, "a red circle", **SIZE, **more), dtype=np.int16)  # type: ignore[arg-type]


def test_images_have_what_their_request_asks_for(addons: Addons) -> None:
    """Each set of add-ons draws another image, the same one again after others have displaced it."""
    asked = [((), ()), (("a0",), ()), (("a0", "a1"), ()), ((), ("c0",)), (("a2",), ("c0", "c1"))]
    first = [made(addons, *each) for each in asked]
    for index, one in enumerate(first):
        assert all(np.abs(one - other).max() > 0 for other in first[:index])
    for each, before in reversed(list(zip(asked, first, strict=True))):
        assert np.array_equal(made(addons, *each), before)


def test_adapters_are_diffusers_own(addons: Addons, tiny_folder: Path) -> None:
    """An adapter kept among others draws what it draws in a fresh pipeline by itself."""
    made(addons, ("a1",))
    pipeline = load_pipeline(tiny_folder)
    pipeline.load_lora_weights(addons._adapters / "a0.safetensors")
    alone = np.asarray(make_image(pipeline, "a red circle", **SIZE), dtype=np.int16)  # type: ignore[arg-type]
    assert np.abs(made(addons, ("a0",)) - alone).max() <= 1


def test_control_images_are_read(addons: Addons) -> None:
    """Base64 of a PNG arrives as the image it is."""
    _, more = addons.prepare([], [Control("c0", outlines(96, 96, 0), 0.8)])
    wanted = Image.open(io.BytesIO(base64.b64decode(outlines(96, 96, 0))))
    assert np.array_equal(np.asarray(more["control_image"]), np.asarray(wanted))
    assert more["controlnet_conditioning_scale"] == 0.8
