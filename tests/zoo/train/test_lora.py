"""Adapters: trained beside frozen layers, kept as diffusers keeps them, and derived in any number."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lego_serve.zoo.train import lora as training
from lego_serve.zoo.train.controlnet import build_controlnet
from lego_serve.zoo.train.derive import RANKS, derive, derive_adapters, truncate_rank
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.train.lora import LoraPlan, train_lora
from lego_serve.zoo.train.lora_modules import (
    FILE_NAME,
    LowRankPair,
    attach,
    attention_layers,
    block_layers,
    load_adapter,
    merge,
    pairs_of,
    save_adapter,
)
from tests.support.tiny_models import untrained

QUICK = {"chunks": 1, "chunk_pixels": 4 * 128 * 128, "rows": 4 * 96}


@pytest.fixture
def base() -> FrozenFamily:
    """The architecture with random weights."""
    return FrozenFamily.of(untrained())


def random_adapter(base: FrozenFamily, rank: int, seed: int) -> dict[str, LowRankPair]:
    """An adapter that changes something on every attention layer."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name in attention_layers(base.transformer):
        outputs, inputs = base.transformer.get_submodule(name).weight.shape
        down = torch.randn(rank, inputs, generator=generator) * 0.05
        pairs[name] = LowRankPair(down, torch.randn(outputs, rank, generator=generator) * 0.05)
    return pairs


def test_an_adapter_covers_every_projection_of_attention_and_of_feed_forward(base: FrozenFamily) -> None:
    """Eight and four a block, but for the last, whose text leads nowhere."""
    assert len(attention_layers(base.transformer)) == 6 * 8 - 1
    assert len(block_layers(base.transformer)) == 6 * 12 - 3


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(base: FrozenFamily) -> None:
    """Updates start at zero; the family's own weights are frozen."""
    before = base.generate(["a red circle"], [1], 96, steps=2)
    parts = attach(base.transformer, 4, block_layers(base.transformer))
    assert torch.equal(base.generate(["a red circle"], [1], 96, steps=2), before)
    trained = [name for name, p in base.transformer.named_parameters() if p.requires_grad]
    assert all(name.endswith((".down", ".up")) for name in trained)
    assert len(trained) == 2 * len(parts)


def test_training_resumes_where_it_stopped(base: FrozenFamily, tmp_path: Path) -> None:
    """Two steps and two more end with the state of step four, and the loss falls on what is learnt."""
    train_lora(tmp_path, base, "stripes", LoraPlan(steps=2, **QUICK))
    again = FrozenFamily.of(untrained())
    pairs = train_lora(tmp_path, again, "stripes", LoraPlan(steps=4, **QUICK))
    state = torch.load(tmp_path / "stripes-r4.pt", weights_only=True)
    assert state["step"] == 4
    assert all(pair.rank == 4 for pair in pairs.values())
    assert any(pair.up.abs().max() > 0 for pair in pairs.values())


def test_training_beside_a_controlnet_learns_with_it_and_leaves_it_alone(base: FrozenFamily, tmp_path: Path) -> None:
    """One batch beside it and one without end with other adapters; its own weights stay."""
    net = build_controlnet(base.transformer).requires_grad_(False)
    for block in net.controlnet_blocks:
        block.weight.normal_(0, 0.05)
    before = [weight.clone() for weight in net.parameters()]
    plan = LoraPlan(steps=2, controlled_ratio=1.0, **QUICK)
    with_net = train_lora(tmp_path / "with", base, "stripes", plan, net)
    alone = train_lora(tmp_path / "alone", FrozenFamily.of(untrained()), "stripes", plan)
    assert any(not torch.equal(alone[name].up, pair.up) for name, pair in with_net.items())
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_a_merged_adapter_draws_what_the_attached_one_draws(base: FrozenFamily) -> None:
    """Patching the weights and adding low-rank products are the same function."""
    parts = attach(base.transformer, 4, block_layers(base.transformer))
    generator = torch.Generator().manual_seed(0)
    for part in parts.values():
        part.up.data.normal_(0, 0.05, generator=generator)
    attached = base.generate(["a red circle"], [1], 96, steps=2)
    plain = FrozenFamily.of(untrained())
    merge(plain.transformer, pairs_of(parts))
    difference = plain.generate(["a red circle"], [1], 96, steps=2).int() - attached.int()
    assert difference.abs().max() <= 1


def test_diffusers_finds_every_weight_of_a_saved_adapter(base: FrozenFamily, tmp_path: Path) -> None:
    """Its own reader answers the keys and shapes that were written, and so does ours."""
    adapter = random_adapter(base, 4, 0)
    save_adapter(adapter, tmp_path / FILE_NAME)
    read = StableDiffusion3Pipeline.lora_state_dict(tmp_path)
    assert len(read) == 2 * len(adapter)
    assert read["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"].shape == (4, 128)
    kept = load_adapter(tmp_path / FILE_NAME)
    assert all(torch.allclose(kept[name].delta, pair.delta, atol=1e-2) for name, pair in adapter.items())


def test_diffusers_draws_with_a_saved_adapter_what_we_draw_with_it(base: FrozenFamily, tmp_path: Path) -> None:
    """`load_lora_weights`, where PEFT is installed, against the merged weights."""
    pytest.importorskip("peft")
    save_adapter(random_adapter(base, 4, 0), tmp_path / FILE_NAME, torch.float32)
    pipe = untrained()
    pipe.load_lora_weights(tmp_path)
    merge(base.transformer, load_adapter(tmp_path / FILE_NAME))
    asked = {"num_inference_steps": 2, "guidance_scale": 4.0, "height": 96, "width": 96, "max_sequence_length": 0}
    generator = torch.Generator().manual_seed(1)
    pipe.set_progress_bar_config(disable=True)
    theirs = torch.from_numpy(pipe("a red circle", generator=generator, output_type="np", **asked).images)
    ours = base.generate(["a red circle"], [1], 96, steps=2)
    assert ((theirs * 255).round() - ours).abs().max() <= 1


def test_derived_adapters_are_always_the_same_and_no_two_are_alike(base: FrozenFamily, tmp_path: Path) -> None:
    """Every one has its rank, is a file with an id for a name, and draws something."""
    sources = []
    for seed, rank in enumerate((4, 16, 32)):
        save_adapter(random_adapter(base, rank, seed), tmp_path / f"{seed}.safetensors")
        sources.append(tmp_path / f"{seed}.safetensors")
    files = list(derive_adapters(sources, tmp_path / "a", 6))
    again = list(derive_adapters(sources, tmp_path / "b", 6))
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    assert len({f.read_bytes() for f in files}) == 6
    kept = [load_adapter(f) for f in files]
    assert [next(iter(a.values())).rank for a in kept] == [*RANKS, *RANKS[:2]]
    assert files[0].name == "derived-0000-r4.safetensors"


def test_a_derived_adapter_keeps_most_of_what_it_is_mixed_from(base: FrozenFamily) -> None:
    """At rank 32 a mixture of two of rank 4 is whole, but for the noise."""
    sources = [random_adapter(base, 4, seed) for seed in (0, 1)]
    mixed = derive(sources, 3)
    name = next(iter(mixed))
    both = torch.cat([source[name].down for source in sources])
    inside = mixed[name].delta @ torch.linalg.pinv(both) @ both
    assert inside.norm() > 0.99 * mixed[name].delta.norm()


def test_truncation_is_the_best_of_its_rank() -> None:
    """It equals the truncate_rank singular value decomposition of the product."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(12, 40, generator=generator), torch.randn(30, 12, generator=generator)
    u, s, v = torch.linalg.svd(up @ down)
    best = (u[:, :4] * s[:4]) @ v[:4]
    assert torch.allclose(truncate_rank(down, up, 4).delta, best, atol=1e-3)


def test_shipped_names_say_style_and_rank() -> None:
    """The three adapters have ranks 4, 16 and 32."""
    assert [training.adapter_id(style) for style in training.RANKS] == ["stripes-r4", "outline-r16", "frame-r32"]
