"""Weights patched and put back, and products grouped: bit for bit where it is promised."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.errors import InvalidAdapter, RequestError
from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.adapter import Adapter, Pair, Uses, check_uses, in_order, key_of
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.layers import Linear, Part
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.lora_products import pack_lora
from lego_serve.models.registry import ModelSpec
from tests.support.builders import raw_lane
from tests.support.lora.adapters import adapter, diffusers_names, products, weights_hash
from tests.support.tiny_models import miniature

SIZES = {"channels": 8, "text_width": 256, "pooled_width": 192}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A miniature's backbone in both dtypes."""
    folder = tmp_path_factory.mktemp("sd35")
    miniature("sd35-medium").save_pretrained(folder)
    return load_backbone(ModelSpec("mine", str(folder), dtype=str(request.param), max_sequence_length=8))[0]


def adapters(backbone: Backbone, count: int) -> list[Adapter]:
    """Random adapters, of all layers, of attention alone and of one layer."""
    base = BaseLayers("mine", "sd3", backbone.adapters.shapes)
    kinds = ("", "attn", "transformer_blocks.1.ff")
    return [
        adapter(base, diffusers_names(products(base, seed, 2 + seed, only=kinds[seed % 3])), f"a{seed}")
        for seed in range(count)
    ]


def weights(backbone: Backbone) -> list[torch.Tensor]:
    """Every weight that adapters may change."""
    return [layer.weight for layer in backbone.adapters._layers]


def test_after_500_random_switches_the_weights_are_as_at_the_start(backbone: Backbone) -> None:
    """Bit for bit, whatever sets came in whatever order, and back to the base between them or not."""
    draw, known = random.Random(0), adapters(backbone, 5)
    start = weights_hash(weights(backbone))
    for _ in range(500):
        chosen = draw.sample(known, draw.randint(0, 3))
        backbone.adapters.patch(tuple((each, draw.uniform(-2, 2)) for each in chosen))
        if draw.random() < 0.1:
            backbone.adapters.restore()
            assert weights_hash(weights(backbone)) == start
    backbone.adapters.restore()
    assert weights_hash(weights(backbone)) == start
    assert backbone.adapters.patched == ()


def test_a_set_patched_after_others_has_the_bits_it_has_at_first(backbone: Backbone) -> None:
    """Nothing of the sets before is left in it."""
    one, two, three = (((each, 0.7),) for each in adapters(backbone, 3))
    backbone.adapters.patch(one)
    first = weights_hash(weights(backbone))
    for uses in (two, three, (*one, *two), one):
        backbone.adapters.patch(uses)
    assert weights_hash(weights(backbone)) == first
    backbone.adapters.restore()


def test_an_adapter_that_does_not_fit_touches_nothing(backbone: Backbone) -> None:
    """Nor does it when it comes with one that does."""
    good = adapters(backbone, 1)[0]
    start = weights_hash(weights(backbone))
    path, pair = next(iter(good.pairs.items()))
    for bad in (
        {"transformer.none": pair},
        {path: Pair(pair.down[:, 1:], pair.up)},
        {path: Pair(pair.down[1:], pair.up)},
    ):
        with pytest.raises(InvalidAdapter, match="Adapter bad"):
            backbone.adapters.patch(((good, 1.0), (Adapter("bad", "0" * 64, bad), 1.0)))
        assert weights_hash(weights(backbone)) == start


def test_weights_are_pristine_after_patching_fails_half_way(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may run out in the middle of it."""
    start = weights_hash(weights(backbone))
    whole, count = LoraLayers._patch_layer, iter(range(100))

    def breaking(self: LoraLayers, number: int, products: Sequence[object]) -> None:
        whole(self, number, products)
        if next(count) == 3:
            raise MemoryError

    monkeypatch.setattr(LoraLayers, "_patch_layer", breaking)
    with pytest.raises(MemoryError):
        backbone.adapters.patch(((adapters(backbone, 1)[0], 1.0),))
    assert weights_hash(weights(backbone)) == start
    assert backbone.adapters.patched == ()


def test_lanes_without_adapters_never_see_patched_weights(backbone: Backbone) -> None:
    """Weights left patched are restored before lanes of another set, or of none, run."""
    one, two = adapters(backbone, 2)
    lane = raw_lane(1, **SIZES).for_model(backbone)
    plain, mixed = backbone.velocity([lane])[0], replace(lane, adapters=((two, 1.0),))
    grouped = backbone.velocity([mixed])[0]
    for left in (((one, 1.0),), ((two, 0.5),)):
        backbone.adapters.patch(left)
        assert torch.equal(backbone.velocity([lane, mixed])[0], plain)
        backbone.adapters.patch(left)
        assert torch.equal(backbone.velocity([mixed])[0], grouped)


def test_both_ways_agree_within_the_rounding_of_the_dtype(backbone: Backbone) -> None:
    """For several adapters at once; in bf16 within what rounding the weights costs."""
    uses = tuple((each, scale) for each, scale in zip(adapters(backbone, 3), (0.8, -0.6, 1.2), strict=True))
    lane = replace(raw_lane(2, **SIZES).for_model(backbone), adapters=uses)
    grouped = backbone.velocity([lane])[0]
    backbone.adapters.patch(uses)
    patched = backbone.velocity([lane])[0]
    backbone.adapters.restore()
    error = (patched - grouped).abs().max() / grouped.abs().max()
    assert error < (1e-4 if weights(backbone)[0].dtype == torch.float32 else 0.05)


def test_a_failing_step_leaves_no_products_behind(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next lanes get what they get anyway."""
    lane = raw_lane(3, **SIZES).for_model(backbone)
    plain = backbone.velocity([lane])[0]
    with monkeypatch.context() as patched:
        patched.setattr(type(backbone), "_modulations", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backbone.velocity([replace(lane, adapters=((adapters(backbone, 1)[0], 1.0),))])
    assert torch.equal(backbone.velocity([lane])[0], plain)


def test_only_so_many_bytes_of_stacked_weights_are_kept() -> None:
    """The sets used last stay, and a dropped one comes back with the same result."""
    layer = Linear(torch.zeros(8, 8), None, (Part("transformer.x", 0, 8),))
    layers = LoraLayers([(layer, layer.parts)], max_packed_bytes=3000)
    for seed in range(20):
        layers._packed_set(
            ((Adapter(str(seed), str(seed), {"transformer.x": Pair(torch.ones(8, 8), torch.ones(8, 8))}), 1.0),)
        )
    assert 1 <= len(layers._packed) < 10
    assert next(reversed(layers._packed)) == (("19", 1.0),)


@given(scales=st.lists(st.floats(-10, 10), max_size=4), order=st.randoms())
def test_a_set_has_one_order_and_one_key(scales: list[float], order: random.Random) -> None:
    """However it was given; what has no effect is no part of it."""
    uses: Uses = tuple((Adapter(str(i), str(i), {}), scale) for i, scale in enumerate(scales))
    other = tuple(order.sample(uses, len(uses)))
    assert in_order(other) == in_order(uses)
    assert key_of(other) == key_of(uses)
    assert all(scale for _, scale in key_of(uses))


@pytest.mark.parametrize(
    "uses",
    [
        [(str(i), 1.0) for i in range(5)], [("a", 1.0), ("a", 0.5)], [("a", float("nan"))], [("a", 1e9)], [("a", -1e9)],
        [("a", float("inf"))],
    ],
    ids=str,
)  # fmt: skip
def test_a_set_that_makes_no_sense_is_refused(uses: list[tuple[str, float]]) -> None:
    """Too many, one twice, a scale that is none."""
    with pytest.raises(RequestError) as caught:
        check_uses(uses)
    assert caught.value.param == ("lora" if len(uses) > 4 else "lora[a]")


def test_a_backbone_knows_where_its_layers_lie(backbone: Backbone, tmp_path: Path) -> None:
    """q, k and v side by side in one product, as many outputs as the module has."""
    q, k = (backbone.adapters._locations[f"transformer.transformer_blocks.0.attn.{n}"] for n in ("to_q", "to_k"))
    assert q.layer == k.layer
    assert (q.part.stop, k.part.stop) == (64, 128)


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_an_adapter_saved_in_two_dtypes_is_one_where_the_model_computes_in_bfloat16(scale: float) -> None:
    """Rounded at once to bfloat16, 1 in some hundred numbers would differ in its last bit."""
    draw = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 64, generator=draw) * 0.2, torch.randn(64, 4, generator=draw) * 0.2
    weight = torch.zeros(64, 64, dtype=torch.bfloat16)
    part = Part("layer", 0, 64)
    wide = pack_lora([(part, down, up, scale)], weight)
    narrow = pack_lora([(part, down.half(), up.half(), scale)], weight)
    assert torch.equal(wide.down, narrow.down)
    assert torch.equal(wide.ups[part][0], narrow.ups[part][0])
    assert not torch.equal(down.to(weight), down.half().to(weight))
